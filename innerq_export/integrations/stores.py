"""One layer's cache behind InnerQCache: the reference on the CPU, or packed tensors and the kernels."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor

from innerq_export import reference
from innerq_export.integrations import calls, torch_ops
from innerq_export.integrations.cache import PackedCache, empty_packed_cache
from innerq_export.integrations.hf_mask import Step
from innerq_export.integrations.library import Library
from innerq_export.integrations.prefill import prefill
from innerq_export.integrations.structs import MAX_ATTEND_TOKENS
from innerq_export.reference import Blocks
from innerq_export.spec import CacheConfig


class Store(Protocol):
    """What a layer does; keys and values [B, Hkv, S, D] are aligned to the left."""

    def append(self, key_BHkvSD: Tensor, value_BHkvSD: Tensor, step: Step) -> None:
        """Append the step's tokens."""

    def attend(self, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, step: Step, scale: float) -> Tensor:
        """Return the attention [B, Hq, S, D] of tokens that `append` has written; `scale` 0: 1/sqrt(D)."""

    def select(self, index_B: Tensor) -> None:
        """Make row i what row index_B[i] was; in place where the number of rows stays."""

    def grow(self, capacity_blocks: int) -> None:
        """Make room for that many blocks per sequence."""


class ReferenceStore:
    """The reference's cache of one layer, any dtype, on the CPU."""

    def __init__(self, cache: reference.Cache):
        self.cache = cache

    def append(self, key_BHkvSD: Tensor, value_BHkvSD: Tensor, step: Step) -> None:
        """Replace the cache by the one after the step."""
        held = dataclasses.replace(self.cache, length_B=step.past_length_B.clone())
        self.cache = reference.append(held, key_BHkvSD, value_BHkvSD, step.new_length_B)

    def attend(self, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, step: Step, scale: float) -> Tensor:
        """Attend over the dequantised cache in fp32."""
        tokens = (query_BHqSD, key_BHkvSD, value_BHkvSD)
        return reference.attend(self.cache, *tokens, step.past_length_B, step.new_length_B, scale or None)

    def select(self, index_B: Tensor) -> None:
        """Index every tensor."""
        self.cache = dataclasses.replace(
            self.cache,
            length_B=self.cache.length_B[index_B],
            window_B2HkvWD=self.cache.window_B2HkvWD[index_B],
            key_norm_BHkvD=self.cache.key_norm_BHkvD[index_B],
            blocks=self.cache.blocks.part(index_B),
        )

    def grow(self, capacity_blocks: int) -> None:
        """Copy the blocks into more room."""
        old = self.cache.blocks
        batch, _, kv_heads, _, head_dim = self.cache.window_B2HkvWD.shape
        new = reference.empty_blocks(self.cache.config, batch, kv_heads, head_dim, capacity_blocks).tensors()
        for name, tensor in old.tensors().items():
            new[name][:, :, : old.capacity] = tensor
        self.cache = dataclasses.replace(self.cache, blocks=Blocks.of(new))


class PackedStore:
    """Packed records of one layer, read and written in place at fixed addresses.

    By `library`, or, where it is None or torch compiles, by the torch ops.
    """

    def __init__(self, cache: PackedCache, library: Library | None):
        self.cache, self._library = cache, library

    def append(self, key_BHkvSD: Tensor, value_BHkvSD: Tensor, step: Step) -> None:
        """Append in place, on the current stream."""
        tensors = (key_BHkvSD, value_BHkvSD, step.past_length_B, step.new_length_B)
        if self._library is None or torch.compiler.is_compiling():
            torch_ops.append(self.cache, *tensors)
        else:
            calls.append(self._library, self.cache, *tensors)

    def attend(self, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, step: Step, scale: float) -> Tensor:
        """Attend from the packed records; more than 16 columns dequantise the past once."""
        tensors = (query_BHqSD, key_BHkvSD, value_BHkvSD, step.past_length_B, step.new_length_B)
        if self._library is None or torch.compiler.is_compiling():
            return torch_ops.attend(self.cache, *tensors, scale)
        attention = calls.attend if query_BHqSD.shape[2] <= MAX_ATTEND_TOKENS else prefill
        return attention(self._library, self.cache, *tensors, scale)

    def select(self, index_B: Tensor) -> None:
        """Copy rows."""
        names = ("window_B2HkvWD", "key_norm_BHkvD", "blocks")
        chosen = {name: getattr(self.cache, name).index_select(0, index_B) for name in names}
        if len(index_B) != len(self.cache.window_B2HkvWD):
            self.cache = dataclasses.replace(self.cache, **chosen)
            return
        for name, tensor in chosen.items():
            getattr(self.cache, name).copy_(tensor)

    def grow(self, capacity_blocks: int) -> None:
        """Copy the records into more room; their address changes."""
        batch, kv_heads, held, words = self.cache.blocks.shape
        blocks = self.cache.blocks.new_zeros(batch, kv_heads, capacity_blocks, words)
        blocks[:, :, :held] = self.cache.blocks
        self.cache = dataclasses.replace(self.cache, blocks=blocks)


def new_store(config: CacheConfig, like_BHkvSD: Tensor, capacity_blocks: int, library: Library | None) -> Store:
    """Return an empty store for keys such as `like_BHkvSD`; `library` None: the reference, on the CPU."""
    batch, kv_heads, _, head_dim = like_BHkvSD.shape
    sizes, dtype, device = (batch, kv_heads, head_dim, capacity_blocks), like_BHkvSD.dtype, like_BHkvSD.device
    if library is None:
        return ReferenceStore(reference.empty_cache(config, *sizes, dtype=dtype))
    return PackedStore(empty_packed_cache(config, *sizes, dtype=dtype, device=device), library)
