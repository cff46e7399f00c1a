"""The caches that bench decode puts under one model: ours, and what one would use without it, each filled at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from innerq_export.artifacts import ModelShape
from innerq_export.bench.inputs import fill_records
from innerq_export.integrations.library import Library
from innerq_export.runtime.torch_cache import TorchCache
from innerq_export.spec import CacheConfig, blocks_of

SPARE_TOKENS = 512
"""Room behind the context for the steps that are timed."""


class BenchCache(Protocol):
    """A cache of all layers of equally long sequences; `past_length_B` may be advanced by the captured step."""

    past_length_B: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values of all layers, room for the timed steps included."""

    def attend(self, layer: int, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, scale: float) -> Tensor:
        """Store one new token per sequence, then return the attention [B, 1, Hq, D] over all."""


@dataclass(frozen=True)
class Room:
    """How much a cache must hold: `batch` sequences of `tokens` each, in a model of this shape."""

    shape: ModelShape
    batch: int
    tokens: int
    dtype: torch.dtype
    device: torch.device


class PlainCache:
    """Keys and values unquantised in one tensor a layer, attended to by one backend of torch's SDPA.

    Its best case: exactly as long as the context, so no mask is needed; the new token overwrites the last one.
    """

    def __init__(self, room: Room, backend: SDPBackend | None):
        self._backend, shape = backend, room.shape
        sizes = (2, room.batch, shape.kv_heads, room.tokens, shape.head_dim)
        self.layers = [torch.empty(sizes, dtype=room.dtype, device=room.device) for _ in range(shape.layers)]
        self.past_length_B = torch.full((room.batch,), room.tokens - 1, dtype=torch.int32, device=room.device)

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def fill(self) -> None:
        """Give every layer normal keys and values."""
        for layer in self.layers:
            layer.normal_()

    def attend(self, layer: int, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, scale: float) -> Tensor:
        """Write the new token, then attend with one call."""
        cache = self.layers[layer]
        cache[0, :, :, -1:].copy_(key_BHkvSD)
        cache[1, :, :, -1:].copy_(value_BHkvSD)
        if self._backend is None:
            out = scaled_dot_product_attention(query_BHqSD, cache[0], cache[1], scale=scale or None, enable_gqa=True)
        else:
            with sdpa_kernel(self._backend):
                out = scaled_dot_product_attention(
                    query_BHqSD, cache[0], cache[1], scale=scale or None, enable_gqa=True
                )
        return out.transpose(1, 2).contiguous()


def plain(backend: SDPBackend | None) -> Callable[[Room], PlainCache]:
    """Return a maker of filled plain caches; `backend` None lets torch choose, as on the CPU."""

    def make(room: Room) -> PlainCache:
        cache = PlainCache(room, backend)
        cache.fill()
        return cache

    return make


def ours(config: CacheConfig, library: Library | None = None) -> Callable[[Room], TorchCache]:
    """Return a maker of packed caches with random records, `room.tokens` - 1 tokens held and some room behind."""

    def make(room: Room) -> TorchCache:
        cache = empty_ours(config, room, library)
        generator = torch.Generator(room.device).manual_seed(0)
        for layer in cache.layers:
            layer.window_B2HkvWD.normal_(generator=generator)
            if layer is cache.layers[0]:
                fill_records(config, layer.blocks, room.shape.head_dim, generator)
            layer.blocks.copy_(cache.layers[0].blocks)
        return cache

    return make


def empty_ours(config: CacheConfig, room: Room, library: Library | None = None) -> TorchCache:
    """Return a packed cache that says it holds `room.tokens` - 1 tokens, of zero records."""
    capacity = blocks_of(config, room.tokens + SPARE_TOKENS)
    cache = TorchCache(config, room.shape, room.batch, capacity, dtype=room.dtype, device=room.device, library=library)
    cache.past_length_B.fill_(room.tokens - 1)
    cache.new_length_B.fill_(1)
    return cache
