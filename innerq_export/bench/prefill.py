"""Prefill through our path against torch's flash attention on plain tensors of the same lengths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from innerq_export.bench.appended import wrong_words
from innerq_export.bench.cases import HALF_BYTES
from innerq_export.bench.decode import PEAKED_QUERY, release
from innerq_export.bench.oracle import history64, rows64
from innerq_export.bench.ours import relative_error
from innerq_export.bench.report import Row
from innerq_export.bench.timing import measure
from innerq_export.integrations import calls, prefill
from innerq_export.integrations.cache import PackedCache, empty_packed_cache
from innerq_export.integrations.library import Library
from innerq_export.spec import GROUP_SIZE, blocks_of, preset, record_bytes

SECTION = "prefill"
QUERY_HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
CHECKED_ROWS = 64


def prefill_rows(library: Library, name: str, device: torch.device, copy: float) -> Iterator[Row]:
    """Yield, for prompts of 4K to 32K and for chunks of 4K over 4K to 28K tokens, flash, ours and append.

    B = 1, 32/8 heads of 128. Ours reads the lengths on the host, which is in its time. Errors: of CHECKED_ROWS rows of
    all heads, and of an append the words of one KV head that differ from the reference's.
    """
    unit = 4096 if device.type == "cuda" else 64
    shapes = [(0, unit << power) for power in range(4)] + [(past * unit, unit) for past in (1, 3, 7)]
    for past, new in shapes:
        yield from _rows(_chunk(library, name, past, new, device), copy)
        release(device)


@dataclass(frozen=True)
class _Chunk:
    """`new` tokens behind `past` that the cache holds; rows are keys and values of both in plain tensors."""

    library: Library
    preset: str
    cache: PackedCache
    query: Tensor
    rows: tuple[Tensor, Tensor]
    past: int
    new: int
    past_length: Tensor
    new_length: Tensor

    @property
    def new_rows(self) -> tuple[Tensor, Tensor]:
        return self.rows[0][:, :, self.past :], self.rows[1][:, :, self.past :]

    def flash(self, _: int) -> Tensor:
        mask = causal_lower_right(self.new, self.past + self.new)
        return scaled_dot_product_attention(self.query, *self.rows, attn_mask=mask, enable_gqa=True)

    def append(self, _: int) -> None:
        calls.append(self.library, self.cache, *self.new_rows, self.past_length, self.new_length)

    def attend(self, _: int) -> Tensor:
        tokens = (self.query, *self.new_rows)
        return prefill.prefill(self.library, self.cache, *tokens, self.past_length, self.new_length)

    def held64(self) -> tuple[Tensor, Tensor]:
        """Return keys and values [Hkv, past + new, D] in fp64 as attention sees them once the new ones are appended."""
        key, value = (rows[0].double() for rows in self.rows)
        if self.past:
            held = history64(self.cache, 0, self.past, self.new, slice(None))
            key[:, : self.past], value[:, : self.past] = held
        return key, value


def _chunk(library: Library, name: str, past: int, new: int, device: torch.device) -> _Chunk:
    config = preset(name)
    cache = empty_packed_cache(config, 1, KV_HEADS, HEAD_DIM, blocks_of(config, past + new), device=device)
    key, value = (torch.randn(1, KV_HEADS, past + new, HEAD_DIM, device=device).half() for _ in range(2))
    query = torch.randn(1, QUERY_HEADS, new, HEAD_DIM, device=device).half()
    past_length, new_length = (torch.tensor([n], dtype=torch.int32, device=device) for n in (past, new))
    if past:
        old_rows = (key[:, :, :past], value[:, :, :past])
        calls.append(library, cache, *old_rows, torch.zeros_like(past_length), past_length)
    return _Chunk(library, name, cache, query, (key, value), past, new, past_length, new_length)


def _rows(chunk: _Chunk, copy: float) -> Iterator[Row]:
    device, new, total = chunk.query.device, chunk.new, chunk.past + chunk.new
    row_bytes = KV_HEADS * HEAD_DIM * HALF_BYTES
    attend_bytes = 2 * (total + new * QUERY_HEADS // KV_HEADS) * row_bytes
    records = new * KV_HEADS * record_bytes(preset(chunk.preset), HEAD_DIM) // GROUP_SIZE
    label = f"chunk of {new} over {chunk.past}" if chunk.past else f"prompt of {new}"
    shape: dict[str, Any] = {"query_heads": QUERY_HEADS, "kv_heads": KV_HEADS, "tokens": total, "preset": chunk.preset}

    def row(kernel: str, us: float, moved: int, errors: tuple[float, ...], note: str) -> Row:
        measured: tuple[Any, ...] = (us, None, moved, 100 * moved / (us * 1e-6) / copy, *errors)
        return Row(SECTION, label, kernel, chunk.preset, *measured, batch=1, **shape, note=note)  # type: ignore[misc]

    append_errors = _append_errors(chunk)  # before all: a second append of the same tokens finds a moved window
    flash_errors = _errors(chunk, _Chunk.flash, (chunk.rows[0][0], chunk.rows[1][0]))
    our_errors = _errors(chunk, _Chunk.attend, chunk.held64())
    flash_us, ours_us, append_us = (
        measure(work, 1, device, graph=False).ev_us for work in (chunk.flash, chunk.attend, chunk.append)
    )
    against = f"{100 * flash_us / ours_us:.0f}% of flash's speed (bar: 70%)"
    appended = f"quantises and stores; {append_errors[0]:.0f} words of a head differ from the reference's"
    yield row("torch SDPA flash fp16", flash_us, attend_bytes, flash_errors, "")
    yield row("innerq prefill", ours_us, attend_bytes, our_errors, against)
    yield row("innerq append", append_us, 2 * new * row_bytes + records, append_errors, appended)


def _append_errors(chunk: _Chunk) -> tuple[float]:
    head, lengths = slice(0, 1), (chunk.past_length, chunk.new_length)
    return (float(wrong_words(chunk.library, chunk.cache, chunk.new_rows, *lengths, head)),)


def _errors(chunk: _Chunk, work: Callable[[_Chunk, int], Tensor], held: tuple[Tensor, Tensor]) -> tuple[float, ...]:
    """Return the relative L2 errors of an ordinary and a peaked softmax over rows from the first to the last."""
    rows = torch.linspace(0, chunk.new - 1, min(chunk.new, CHECKED_ROWS), device=chunk.query.device).long()
    errors = []
    for scale in (1.0, PEAKED_QUERY):
        scaled = dataclasses.replace(chunk, query=chunk.query * scale)
        wanted = rows64(scaled.query[0, :, rows], *held, chunk.past + rows + 1)
        errors.append(relative_error(work(scaled, 0)[0, :, rows], wanted))
    return tuple(errors)
