"""Prefill through our path against torch's flash attention on plain tensors of the same lengths."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from innerq_export.bench.decode import release
from innerq_export.bench.report import Row
from innerq_export.bench.timing import measure
from innerq_export.integrations import calls, prefill
from innerq_export.integrations.cache import PackedCache, empty_packed_cache
from innerq_export.integrations.library import Library
from innerq_export.spec import blocks_of, preset

SECTION = "prefill"
QUERY_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128


def prefill_rows(library: Library, name: str, device: torch.device, copy: float) -> Iterator[Row]:
    """Yield, for prompts of 4K to 32K and for chunks of 4K over 4K to 28K tokens, flash and ours; B = 1, 32/8 heads."""
    unit = 4096 if device.type == "cuda" else 64
    shapes = [(0, unit << power) for power in range(4)] + [(past * unit, unit) for past in (1, 3, 7)]
    for past, new in shapes:
        yield from _rows(library, name, past, new, device, copy)
        release(device)


def _rows(library: Library, name: str, past: int, new: int, device: torch.device, copy: float) -> Iterator[Row]:
    config = preset(name)
    cache = empty_packed_cache(config, 1, KV_HEADS, HEAD_DIM, blocks_of(config, past + new), device=device)
    key, value = (torch.randn(1, KV_HEADS, past + new, HEAD_DIM, device=device).half() for _ in range(2))
    query = torch.randn(1, QUERY_HEADS, new, HEAD_DIM, device=device).half()
    for start, stop in ((0, past), (past, past + new)):
        if stop > start:
            rows = (key[:, :, start:stop], value[:, :, start:stop])
            calls.append(library, cache, *rows, _length(start, device), _length(stop - start, device))
    mask = causal_lower_right(new, past + new)
    moved = (2 * KV_HEADS * (past + new) + 2 * QUERY_HEADS * new) * HEAD_DIM * 2
    label = f"prompt of {new}" if not past else f"chunk of {new} over {past}"

    def flash(_: int) -> object:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)

    new_rows = (key[:, :, past:], value[:, :, past:])

    def ours(_: int) -> object:
        return _ours(library, cache, query, new_rows, past)

    flash_us = measure(flash, 1, device).ev_us
    ours_us = measure(ours, 1, device).ev_us
    shape = {"batch": 1, "query_heads": QUERY_HEADS, "kv_heads": KV_HEADS, "tokens": past + new, "preset": name}
    for kernel, us in (("torch SDPA flash fp16", flash_us), ("innerq", ours_us)):
        note = f"{100 * flash_us / us:.0f}% of flash's speed (bar: 70%)" if kernel == "innerq" else ""
        percent = 100 * moved / (us * 1e-6) / copy
        yield Row(SECTION, label, kernel, name, us, None, moved, percent, **shape, note=note)  # type: ignore[arg-type]


def _ours(
    library: Library, cache: PackedCache, query: torch.Tensor, new: tuple[torch.Tensor, torch.Tensor], past: int
) -> torch.Tensor:
    past_length, new_length = _length(past, query.device), _length(query.shape[2], query.device)
    return prefill.prefill(library, cache, query, *new, past_length, new_length)


def _length(tokens: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([tokens], dtype=torch.int32, device=device)
