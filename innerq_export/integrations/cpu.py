"""The two operations on packed CPU tensors by the reference: what the torch ops run where there is no card."""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export import reference
from innerq_export.integrations.cache import PackedCache, check_tensors
from innerq_export.reference import packed


def append(
    cache: PackedCache, key_BHkvSD: Tensor, value_BHkvSD: Tensor, past_length_B: Tensor, new_length_B: Tensor
) -> None:
    """Append in place by the reference; raises where a sequence has no room or values are not finite."""
    check_tensors(cache)
    after = reference.append(to_reference(cache, past_length_B), key_BHkvSD, value_BHkvSD, new_length_B)
    cache.window_B2HkvWD.copy_(after.window_B2HkvWD)
    cache.key_norm_BHkvD.copy_(after.key_norm_BHkvD)
    records = packed.pack(cache.config, after.blocks)
    if cache.block_table_BP is None:
        cache.blocks.copy_(records)
    else:
        _scatter_pages(cache, records)


def attend(
    cache: PackedCache,
    query_BHqSD: Tensor,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor,
    scale: float = 0.0,
) -> Tensor:
    """Return the reference's attention; `scale` 0: 1/sqrt(D)."""
    check_tensors(cache)
    held = to_reference(cache, past_length_B + new_length_B)
    tokens = (query_BHqSD, key_BHkvSD, value_BHkvSD)
    return reference.attend(held, *tokens, past_length_B, new_length_B, scale or None)


def to_reference(cache: PackedCache, length_B: Tensor) -> reference.Cache:
    """Return the reference's view of the cache: unpacked blocks, pages gathered into the order of their tokens."""
    blocks = packed.unpack(cache.config, _gather_pages(cache), cache.window_B2HkvWD.shape[-1])
    return reference.Cache(cache.config, length_B, cache.window_B2HkvWD, cache.key_norm_BHkvD, blocks)


def _gather_pages(cache: PackedCache) -> Tensor:
    """Return [B, Hkv, NB, R]; a page number outside the pool gives whatever page 0 holds, as nothing may read it."""
    if cache.block_table_BP is None:
        return cache.blocks
    inside = (cache.block_table_BP >= 0) & (cache.block_table_BP < cache.blocks.shape[0])
    pages = cache.blocks[torch.where(inside, cache.block_table_BP, 0).long()]
    return pages.transpose(1, 2).flatten(2, 3)


def _scatter_pages(cache: PackedCache, records_BHkvNR: Tensor) -> None:
    """Write each sequence's records back into its own pages of the pool."""
    assert cache.block_table_BP is not None
    pages_BHkvPbR = records_BHkvNR.unflatten(2, (-1, cache.blocks.shape[2])).transpose(1, 2)
    inside = (cache.block_table_BP >= 0) & (cache.block_table_BP < cache.blocks.shape[0])
    cache.blocks[cache.block_table_BP[inside].long()] = pages_BHkvPbR[inside]
