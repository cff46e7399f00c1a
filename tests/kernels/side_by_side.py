"""The library and the torch reference fed with the same tokens, compared bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export import reference
from innerq_export.integrations import calls
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.reference import packed
from innerq_export.spec import CacheConfig, blocks_of

POISON = -0x61616162  # records nobody wrote: NaN scales, all code bits mixed


def bits(x: Tensor) -> Tensor:
    """The tensor as integers, so that equality is of bits: NaN equals NaN and -0 differs from 0."""
    return x.cpu().contiguous().view(torch.int16 if x.dtype.itemsize == 2 else x.dtype)


def lengths(values: list[int] | Tensor, device: str = "cpu") -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32, device=device)


class SideBySide:
    """A packed cache driven through the C ABI and the reference's cache of the same layer."""

    def __init__(self, kernels, config=None, *, batch=2, heads=2, head_dim=64, blocks=6, dtype=torch.float16, pages=0):
        self.kernels, self.config = kernels, config or CacheConfig(sink=4, recent=8)
        sizes = (self.config, batch, heads, head_dim, blocks)
        self.expected = reference.empty_cache(*sizes, dtype=dtype)
        self.cache = empty_packed_cache(*sizes, dtype=dtype, device=kernels.device, page_blocks=pages)
        self.cache.blocks.fill_(POISON)
        self.shape, self.dtype = (batch, heads, head_dim), dtype

    @property
    def past(self) -> Tensor:
        return self.expected.length_B

    def random(self, tokens: int, seed: int = 0, heads: int = 0) -> Tensor:
        batch, kv_heads, head_dim = self.shape
        generator = torch.Generator().manual_seed(seed + 7919 * tokens)
        return torch.randn(batch, heads or kv_heads, tokens, head_dim, generator=generator).to(self.dtype)

    def append(self, key: Tensor, value: Tensor, new: list[int] | None = None) -> None:
        """Append to both; `new` None: all tokens of every sequence (NULL in the C ABI)."""
        self.append_library(key, value, new)
        batch = key.shape[0]
        new_length = lengths(new if new is not None else [key.shape[2]] * batch)
        self.expected = reference.append(self.expected, key, value, new_length)

    def append_library(self, key: Tensor, value: Tensor, new: list[int] | None = None) -> None:
        device = self.kernels.device
        new_length = None if new is None else lengths(new, device)
        past = lengths(self.past, device)
        calls.append(self.kernels.library, self.cache, key.to(device), value.to(device), past, new_length)

    def records(self) -> Tensor:
        """The library's records [B, Hkv, NB, words], pages in the order of their tokens, on the CPU."""
        blocks, table = self.cache.blocks.cpu(), self.cache.block_table_BP
        if table is None:
            return blocks
        return blocks[table.cpu().long()].transpose(1, 2).flatten(2, 3)

    def check(self) -> None:
        """Window, lambda and every record equal the reference bit for bit; no other record was touched."""
        assert torch.equal(bits(self.cache.key_norm_BHkvD), bits(self.expected.key_norm_BHkvD)), "key_norm"
        assert torch.equal(bits(self.cache.window_B2HkvWD), bits(self.expected.window_B2HkvWD)), "window"
        for b in range(self.shape[0]):
            self.check_records(b)

    def check_records(self, b: int) -> None:
        """The records of sequence b alone."""
        records, expected = self.records(), packed.pack(self.config, self.expected.blocks)
        held = blocks_of(self.config, int(self.past[b]))
        wrong = (records[b, :, :held] != expected[b, :, :held]).nonzero()
        assert not len(wrong), f"sequence {b}: first wrong (head, block, word) {wrong[0].tolist()}"
        assert (records[b, :, held:] == POISON).all(), f"sequence {b}: a record beyond block {held} was written"
