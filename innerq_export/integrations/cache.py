"""The packed cache of one layer as torch tensors: what the kernels and the torch ops read and write in place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.errors import ConfigError
from innerq_export.spec import CacheConfig, record_bytes

WORD_BYTES = 4


@dataclass(frozen=True)
class PackedCache:
    """Tensors of SPEC section 2 in the `packed` layout; R = record words (int32).

    `blocks`: [B, Hkv, NB, R], or with `block_table_BP` (int32 page numbers) a pool [pages, Hkv, page_blocks, R] in
    which block j of sequence b is record j mod page_blocks of page block_table[b, j / page_blocks].
    `flags`: int32 [1]; the CUDA ops set structs.FLAG_CAPACITY where a sequence had no room and was left unharmed.
    Lengths are the caller's: every op is told how many tokens each sequence holds.
    """

    config: CacheConfig
    window_B2HkvWD: Tensor
    key_norm_BHkvD: Tensor
    blocks: Tensor
    flags: Tensor
    block_table_BP: Tensor | None = None

    @property
    def capacity_blocks(self) -> int:
        """NB: blocks a sequence has room for."""
        if self.block_table_BP is None:
            return self.blocks.shape[2]
        return self.block_table_BP.shape[1] * self.blocks.shape[2]


def empty_packed_cache(
    config: CacheConfig,
    batch: int,
    kv_heads: int,
    head_dim: int,
    capacity_blocks: int,
    *,
    dtype: torch.dtype = torch.float16,
    device: torch.device | str = "cpu",
    page_blocks: int = 0,
) -> PackedCache:
    """Return a cache of no token. With `page_blocks` > 0 the blocks are a pool in which sequence b owns pages b P ..

    Records are zeroed: random bytes could hold NaN scales, and a cache is often looked at.
    """
    words = record_bytes(config, head_dim) // WORD_BYTES
    shape, table = (batch, kv_heads, capacity_blocks, words), None
    if page_blocks:
        pages = -(-capacity_blocks // page_blocks)
        shape = (batch * pages, kv_heads, page_blocks, words)
        table = torch.arange(batch * pages, dtype=torch.int32, device=device).view(batch, pages)
    return PackedCache(
        config=config,
        window_B2HkvWD=torch.zeros(batch, 2, kv_heads, config.window_tokens, head_dim, dtype=dtype, device=device),
        key_norm_BHkvD=torch.ones(batch, kv_heads, head_dim, dtype=torch.float16, device=device),
        blocks=torch.zeros(shape, dtype=torch.int32, device=device),
        flags=torch.zeros(1, dtype=torch.int32, device=device),
        block_table_BP=table,
    )


def check_tensors(cache: PackedCache) -> None:
    """Raise ConfigError that names the first tensor whose shape, dtype, device or strides cannot be this cache's."""
    window = cache.window_B2HkvWD
    if window.dim() != 5 or window.shape[1] != 2 or window.shape[3] != cache.config.window_tokens:
        expected = f"[B, 2, Hkv, {cache.config.window_tokens}, D]"
        raise ConfigError("cache tensor 'window': shape", expected=expected, got=list(window.shape))
    batch, _, kv_heads, _, head_dim = window.shape
    words = record_bytes(cache.config, head_dim) // WORD_BYTES
    rows = batch if cache.block_table_BP is None else cache.blocks.shape[0]
    _expect("key_norm", cache.key_norm_BHkvD, (batch, kv_heads, head_dim), torch.float16, window.device)
    _expect("blocks", cache.blocks, (rows, kv_heads, *cache.blocks.shape[2:3], words), torch.int32, window.device)
    _expect("window", window, tuple(window.shape), window.dtype, window.device)
    if cache.block_table_BP is not None:
        pages = (batch, *cache.block_table_BP.shape[1:2])
        _expect("block_table", cache.block_table_BP, pages, torch.int32, window.device)


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    got = (tuple(tensor.shape), tensor.dtype, tensor.device)
    if got != (shape, dtype, device):
        raise ConfigError(f"cache tensor '{name}'", expected=f"{list(shape)} {dtype} on {device}", got=got)
    if not tensor.is_contiguous():
        raise ConfigError(f"cache tensor '{name}'", expected="contiguous", got=tensor.stride(), fix="clone it once")
