"""torch.nn.functional.scaled_dot_product_attention over an fp16 cache, one backend at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from innerq_export.bench.cases import Case
from innerq_export.bench.peers.base import Peer, Prepared, expected64, rotation_of


def _prepare(backend: SDPBackend, case: Case, device: torch.device) -> Prepared:
    options: dict[str, Any] = {"dtype": torch.float16, "device": device}
    shape = (case.batch, case.kv_heads, case.tokens, case.head_dim)
    count = rotation_of(case) if device.type == "cuda" else 1
    keys, values = ([torch.randn(shape, **options) for _ in range(count)] for _ in range(2))
    query = torch.randn(case.batch, case.query_heads, 1, case.head_dim, **options)
    outputs: list[Tensor | None] = [None] * count

    def launch(i: int) -> None:
        with sdpa_kernel(backend):
            outputs[i] = scaled_dot_product_attention(query, keys[i], values[i], enable_gqa=True)

    def output() -> Tensor:
        launch(0)
        assert outputs[0] is not None
        return outputs[0]

    return Prepared(launch, count, output, lambda: expected64(query, keys[0], values[0]), case.plain_bytes_moved())


def _peer(name: str, backend: SDPBackend) -> Peer:
    return Peer(name, "fp16", lambda case, device: _prepare(backend, case, device))


PEERS = (
    _peer("torch SDPA cuDNN fp16", SDPBackend.CUDNN_ATTENTION),
    _peer("torch SDPA flash fp16", SDPBackend.FLASH_ATTENTION),
)
