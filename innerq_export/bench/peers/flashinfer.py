"""FlashInfer's batch decode over a paged cache: FA2 on tensor cores in fp16 and fp8, and XQA in fp8.

FlashInfer compiles its kernels with nvcc at first use, which takes a minute or more and is never inside a timing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from innerq_export.bench.cases import Case
from innerq_export.bench.peers.base import Peer, Prepared, expected64, rotation_of

PAGE = 64
WORKSPACE_BYTES = 256 << 20
FP8 = torch.float8_e4m3fn


def _pages(case: Case, dtype: torch.dtype, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return rotated caches, each (keys, values) as pages [pages, PAGE, Hkv, D] in the order of tokens."""
    if case.tokens % PAGE:
        raise ValueError(f"tokens must be a multiple of {PAGE}")
    shape = (case.batch * case.tokens // PAGE, PAGE, case.kv_heads, case.head_dim)

    def one() -> Tensor:
        return torch.randn(shape, dtype=torch.float16, device=device).to(dtype)

    return [(one(), one()) for _ in range(rotation_of(case, dtype.itemsize))]


def _in_order(case: Case, pages: Tensor) -> Tensor:
    """Return pages as [B, Hkv, T, D] in fp16."""
    return pages.to(torch.float16).view(case.batch, case.tokens, case.kv_heads, case.head_dim).transpose(1, 2)


def _fa2(dtype: torch.dtype, case: Case, device: torch.device) -> Prepared:
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    caches = _pages(case, dtype, device)
    per_sequence = case.tokens // PAGE
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    wrapper = BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True, backend="fa2")
    lengths: dict[str, Any] = {"dtype": torch.int32, "device": device}
    wrapper.plan(
        torch.arange(case.batch + 1, **lengths) * per_sequence,
        torch.arange(case.batch * per_sequence, **lengths),
        torch.full((case.batch,), PAGE, **lengths),
        case.query_heads,
        case.kv_heads,
        case.head_dim,
        PAGE,
        q_data_type=torch.float16,
        kv_data_type=dtype,
    )
    query = torch.randn(case.batch, case.query_heads, case.head_dim, dtype=torch.float16, device=device)
    outputs = [torch.full_like(query, float("nan")) for _ in caches]
    return _prepared(case, caches, query, outputs, lambda i: wrapper.run(query, caches[i], out=outputs[i]))


def _xqa(case: Case, device: torch.device) -> Prepared:
    from flashinfer.decode import xqa_batch_decode_with_kv_cache

    caches = _pages(case, FP8, device)
    per_sequence = case.tokens // PAGE
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    table = torch.arange(case.batch * per_sequence, dtype=torch.int32, device=device).view(case.batch, -1)
    lengths = torch.full((case.batch,), case.tokens, dtype=torch.int32, device=device).view(torch.uint32)
    query = torch.randn(case.batch, case.query_heads, case.head_dim, dtype=torch.float16, device=device)
    outputs = [torch.full_like(query, float("nan")) for _ in caches]
    scale = case.head_dim**-0.5

    def launch(i: int) -> None:
        sizes = (table, lengths, case.tokens)
        xqa_batch_decode_with_kv_cache(query, caches[i], workspace, *sizes, bmm1_scale=scale, out=outputs[i])

    return _prepared(case, caches, query, outputs, launch)


def _prepared(
    case: Case,
    caches: list[tuple[Tensor, Tensor]],
    query_BHqD: Tensor,
    outputs: list[Tensor],
    launch: Callable[[int], object],
) -> Prepared:
    def output() -> Tensor:
        launch(0)
        return outputs[0][:, :, None]

    def expected() -> Tensor:
        key, value = (_in_order(case, pages) for pages in caches[0])
        return expected64(query_BHqD[:, :, None], key, value)

    bytes_moved = case.plain_bytes_moved(caches[0][0].dtype.itemsize)
    return Prepared(launch, len(caches), output, expected, bytes_moved)


PEERS = (
    Peer("FlashInfer FA2 fp16", "fp16", lambda case, device: _fa2(torch.float16, case, device)),
    Peer("FlashInfer FA2 fp8", "fp8", lambda case, device: _fa2(FP8, case, device)),
    Peer("FlashInfer XQA fp8", "fp8", _xqa),
)
