"""Time of innerq_prefill beside torch's flash SDPA, on the card."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.spec import PRESETS
from tests.kernels.abi import prefill
from tests.kernels.side_by_side import lengths
from tests.kernels.test_gpu_append import event_times

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("tokens", [4096, 16_384])
def test_prefill_beside_flash(gpu_kernels, tokens, capsys):
    """B = 1, 32 / 8 heads, D = 128, empty cache: the kernel that a plugin runs; torch users get torch's own."""
    cache = empty_packed_cache(PRESETS["balanced"], 1, 8, 128, 1, device="cuda")
    query, key, value = (torch.randn(1, heads, tokens, 128, device="cuda").half() for heads in (32, 8, 8))
    past = lengths([0], "cuda")

    def ours(_: int = 0) -> torch.Tensor:
        return prefill(gpu_kernels.library, cache, (query, key, value), past, None, 0)

    def flash(_: int = 0) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    error = float((ours().double() - flash().double()).norm() / flash().double().norm())
    took, theirs = event_times(ours, 1, 5), event_times(flash, 1, 5)
    teraflops = 2 * 32 * tokens * tokens * 128 / took / 1e6
    with capsys.disabled():
        print(
            f"\nprefill {tokens}: {took:.0f} us, {teraflops:.0f} TFLOP/s; torch flash {theirs:.0f} us; L2 {error:.1e}"
        )
    assert error <= 2e-3
    assert took < 3 * theirs
