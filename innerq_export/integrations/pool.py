"""Many sequences in one pool of pages: they join and leave a running batch, and share the full blocks of a prefix.

    pool = PagePool(model.config, slots=8, pages=256, max_tokens=4096)
    sequence = pool.join()                                  # or pool.fork(another): same past, shared pages
    cache = pool.extend(sequence, len(prompt))              # makes room, or PoolFullError with nothing changed
    model(prompt[None], position_ids=..., past_key_values=cache)
    cache = pool.decode([sequence, ...])                    # one more token each; rows are slots, the others rest
    model(token_B1, position_ids=pool.length_B[:, None], past_key_values=cache)
    pool.leave(sequence)

A full block is never written again, so pages of full blocks are shared by counting owners; the window, lambda and the
page that is being filled are each sequence's own. No page is ever taken from a sequence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from innerq_export.errors import ConfigError
from innerq_export.integrations.cache import WORD_BYTES, PackedCache
from innerq_export.integrations.library import Library
from innerq_export.integrations.pages import PageAllocator, PoolFullError
from innerq_export.integrations.stores import PackedStore
from innerq_export.integrations.transformers import InnerQCache, text_config
from innerq_export.spec import CacheConfig, blocks_of, record_bytes
from innerq_export.spec import preset as preset_of

NO_PAGE = -1


@dataclass(eq=False)
class Sequence:
    """A sequence of a pool: its row of the batch, its pages in the order of its blocks, the tokens it holds."""

    slot: int
    length: int = 0
    pages: list[int] = field(default_factory=list)


class PoolView(InnerQCache):
    """Some rows of a pool as the cache of a model; what it appends, it appends to the pool."""

    def __init__(self, config: Any, pool: PagePool, rows: slice, kernels: Library | str):
        super().__init__(config, pool.config, kernels=kernels)
        self.length_B, self.new_B = pool.length_B[rows], pool.new_B[rows]
        for layer, packed in zip(self._mine, pool.layers, strict=True):
            layer.store = PackedStore(_rows(packed, rows), self._library(pool.length_B))
            layer.batch_size, layer.is_initialized = len(self.length_B), True
        self._announced_B = self.new_B

        self.chunk: int | None = None

    def _reserve(self, new: int) -> None:
        """Refuse a call of the model for which the pool has not made room: `chunk` tokens once, or None: one column."""
        fits = new == 1 if self.chunk is None else 0 < self.chunk <= new
        if not fits:
            expected = "one column" if self.chunk is None else f"one call with {self.chunk or 'no more'} tokens"
            fix = "call pool.extend before every chunk and pool.decode before every step; generate() does neither"
            raise ConfigError("a pool's cache", expected=expected, got=f"{new} columns", fix=fix)
        self.chunk = self.chunk and 0

    def reset(self) -> None:
        """Refuse: rows belong to sequences."""
        raise _not_here("reset")

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: the pool counts tokens and pages."""
        raise _not_here("crop")

    def _select(self, index_B: Tensor) -> None:
        raise _not_here("reordering or selecting rows")


class PagePool:
    """Memory for `slots` sequences of up to `max_tokens` tokens, with `pages` pages of `page_blocks` blocks for all.

    `config`: the model's config object. `layers`: a PackedCache of all rows per layer; they share the block table.
    `length_B`, `new_B`: int32 on the device, tokens held and tokens of the coming step.
    """

    def __init__(
        self,
        config: Any,
        preset: str | CacheConfig = "balanced",
        *,
        slots: int,
        pages: int,
        max_tokens: int,
        page_blocks: int = 4,
        dtype: torch.dtype = torch.float16,
        device: torch.device | str = "cpu",
        kernels: Library | str = "auto",
    ):
        self.config = preset_of(preset) if isinstance(preset, str) else preset
        self.pages, self.page_blocks, self.max_tokens = PageAllocator(pages), page_blocks, max_tokens
        self.length_B, self.new_B = (torch.zeros(slots, dtype=torch.int32, device=device) for _ in range(2))
        self._table_BP = torch.full((slots, max(1, self.pages_for(max_tokens))), NO_PAGE, dtype=torch.int32)
        self.table_BP = self._table_BP.to(device, copy=True)
        self.flags = torch.zeros(1, dtype=torch.int32, device=device)
        self.layers = [self._layer(config, dtype) for _ in range(text_config(config).num_hidden_layers)]
        self._running: dict[int, Sequence] = {}
        self._decoding: tuple[int, ...] | None = None
        self._view_of = lambda rows: PoolView(config, self, rows, kernels)
        self._all = self._view_of(slice(0, slots))
        self._one: dict[int, PoolView] = {}

    def pages_for(self, tokens: int) -> int:
        """Return the pages that a sequence of so many tokens owns."""
        return -(-blocks_of(self.config, tokens) // self.page_blocks)

    def join(self, tokens: int = 0) -> Sequence:
        """Return a new empty sequence, with pages for `tokens` tokens already its own."""
        sequence = Sequence(self._free_slot())
        self._extend({sequence: tokens})
        self._running[sequence.slot] = sequence
        return sequence

    def fork(self, source: Sequence, tokens: int = 0) -> Sequence:
        """Return a new sequence with the past of `source`, and pages for `tokens` tokens; full pages are shared."""
        self._check(source)
        blocks, slot = blocks_of(self.config, source.length), self._free_slot()
        full = blocks // self.page_blocks
        own = self.pages.take(self.pages_for(max(tokens, source.length)) - full)
        self.pages.share(source.pages[:full])
        sequence = Sequence(slot, source.length, source.pages[:full] + own)
        partly = slice(full, full + (blocks % self.page_blocks > 0))
        for layer in self.layers:
            layer.window_B2HkvWD[slot] = layer.window_B2HkvWD[source.slot]
            layer.key_norm_BHkvD[slot] = layer.key_norm_BHkvD[source.slot]
            layer.blocks[sequence.pages[partly]] = layer.blocks[source.pages[partly]]
        self.length_B[slot] = self.length_B[source.slot]
        self._running[slot] = sequence
        self._write_row(sequence)
        return sequence

    def leave(self, sequence: Sequence) -> list[int]:
        """Give the slot and the pages back; return the pages that nobody owns any more."""
        self._check(sequence)
        del self._running[sequence.slot]
        freed, sequence.pages = self.pages.release(sequence.pages), []
        self.length_B[sequence.slot] = 0
        self._write_row(sequence)
        return freed

    def extend(self, sequence: Sequence, tokens: int) -> PoolView:
        """Make room for a chunk of `tokens` tokens and return the one-row cache to run the model with, once."""
        self._check(sequence)
        self._extend({sequence: sequence.length + tokens})
        view = self._row_view(sequence.slot)
        view.columns, view.chunk = sequence.length, tokens
        self._decoding = None
        self.new_B[sequence.slot] = tokens
        sequence.length += tokens
        return view

    def decode(self, sequences: Iterable[Sequence], tokens: int = 1) -> PoolView:
        """Make room for `tokens` more of each and return the cache of all rows, to run the model with `tokens` times.

        Every run feeds one column: a token of each of these sequences; the other rows rest.
        """
        chosen = list(sequences)
        for sequence in chosen:
            self._check(sequence)
        self._extend({sequence: sequence.length + tokens for sequence in chosen})
        slots = tuple(sequence.slot for sequence in chosen)
        if slots != self._decoding:
            new_B = torch.zeros(len(self.new_B), dtype=torch.int32)
            new_B[list(slots)] = 1
            self.new_B.copy_(new_B)
            self._decoding = slots
        for sequence in chosen:
            sequence.length += tokens
        return self._all

    def check(self) -> None:
        """Wait for the device; raise AssertionError if a kernel dropped tokens for want of room."""
        if flags := int(self.flags):
            raise AssertionError(f"the kernels dropped tokens of some sequence (flags {flags}): the pool is broken")

    def _extend(self, tokens_of: dict[Sequence, int]) -> None:
        """Give each sequence the pages for so many tokens, all or none."""
        for sequence, tokens in tokens_of.items():
            if tokens > self.max_tokens:
                raise ConfigError(
                    f"sequence in slot {sequence.slot}: tokens", expected=f"at most {self.max_tokens}", got=tokens,
                    fix="make the pool with a larger max_tokens",
                )  # fmt: skip
        missing = {s: n for s, tokens in tokens_of.items() if (n := self.pages_for(tokens) - len(s.pages)) > 0}
        taken = self.pages.take(sum(missing.values()))
        for sequence, count in missing.items():
            sequence.pages += [taken.pop() for _ in range(count)]
            self._write_row(sequence)

    def _write_row(self, sequence: Sequence) -> None:
        row = self._table_BP[sequence.slot]
        row[:] = NO_PAGE
        row[: len(sequence.pages)] = torch.tensor(sequence.pages, dtype=torch.int32)
        self.table_BP[sequence.slot].copy_(row)

    def _row_view(self, slot: int) -> PoolView:
        if slot not in self._one:
            self._one[slot] = self._view_of(slice(slot, slot + 1))
        return self._one[slot]

    def _free_slot(self) -> int:
        free = [slot for slot in range(len(self.length_B)) if slot not in self._running]
        if not free:
            fix = "let a sequence leave first, or make the pool with more slots"
            raise PoolFullError("the page pool has no free slot", expected=f"{len(self.length_B)} sequences", fix=fix)
        return free[0]

    def _check(self, sequence: Sequence) -> None:
        if self._running.get(sequence.slot) is not sequence:
            raise ConfigError(f"the sequence of slot {sequence.slot} has left the pool", fix="join or fork a new one")

    def _layer(self, config: Any, dtype: torch.dtype) -> PackedCache:
        text, device = text_config(config), self.length_B.device
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        heads, slots = text.num_key_value_heads, len(self.length_B)
        records = (self.pages.total, heads, self.page_blocks, record_bytes(self.config, head_dim) // WORD_BYTES)
        return PackedCache(
            config=self.config,
            window_B2HkvWD=torch.zeros(
                slots, 2, heads, self.config.window_tokens, head_dim, dtype=dtype, device=device
            ),
            key_norm_BHkvD=torch.ones(slots, heads, head_dim, dtype=torch.float16, device=device),
            blocks=torch.zeros(records, dtype=torch.int32, device=device),
            flags=self.flags,
            block_table_BP=self.table_BP,
        )


def _rows(packed: PackedCache, rows: slice) -> PackedCache:
    assert packed.block_table_BP is not None
    return dataclasses.replace(
        packed,
        window_B2HkvWD=packed.window_B2HkvWD[rows],
        key_norm_BHkvD=packed.key_norm_BHkvD[rows],
        block_table_BP=packed.block_table_BP[rows],
    )


def _not_here(what: str) -> ConfigError:
    return ConfigError(f"{what}: not on the rows of a page pool", fix="use the pool's join, fork and leave")
