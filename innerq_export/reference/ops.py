"""The reference behind the op table: the two ops on named tensors, in either layout, and inputs to try them on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerq_export.reference.attention import attend
from innerq_export.reference.blocks import Blocks
from innerq_export.reference.cache import Cache, append, empty_cache
from innerq_export.reference.packed import pack, unpack
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import OpCase


def append_op(config: CacheConfig, layout: str, inputs: Mapping[str, Tensor], scale: float = 0.0) -> dict[str, Tensor]:
    """InnerQAppend on the table's inputs; `scale` is unused."""
    cache = cache_of(config, layout, inputs, "past", inputs["past_length"])
    return tensors_of(append(cache, inputs["key"], inputs["value"], inputs["new_length"]), layout, "present")


def attention_op(
    config: CacheConfig, layout: str, inputs: Mapping[str, Tensor], scale: float = 0.0
) -> dict[str, Tensor]:
    """InnerQAttention on the table's inputs; `scale` 0 means 1 / sqrt(D)."""
    past, new = inputs["past_length"], inputs["new_length"]
    cache = cache_of(config, layout, inputs, "present", past + new)
    output = attend(cache, inputs["query"], inputs["key"], inputs["value"], past, new, scale or None)
    return {"output": output}


def append_inputs(config: CacheConfig, layout: str, case: OpCase) -> dict[str, Tensor]:
    """Return random inputs of InnerQAppend: a cache of `case.past` tokens and `case.new` new ones, padding of NaN."""
    cache, new = _cache_and_new(config, case)
    return {**new, **tensors_of(cache, layout, "past")}


def attention_inputs(config: CacheConfig, layout: str, case: OpCase) -> dict[str, Tensor]:
    """Return random inputs of InnerQAttention: the cache after Append, queries about twice the size of keys."""
    cache, new = _cache_and_new(config, case)
    after = append(cache, new["key"], new["value"], new["new_length"])
    generator = torch.Generator().manual_seed(case.seed + 1)
    shape = (len(case.new), case.heads, max(case.new), case.head_dim)
    query = (2 * torch.randn(shape, generator=generator)).to(cache.window_B2HkvWD.dtype)
    return {"query": query, **new, **tensors_of(after, layout, "present")}


def tensors_of(cache: Cache, layout: str, prefix: str) -> dict[str, Tensor]:
    """Return a cache as the table's named tensors, `prefix` 'past' or 'present'."""
    blocks = {"blocks": pack(cache.config, cache.blocks)} if layout == "packed" else cache.blocks.tensors()
    named = {"window": cache.window_B2HkvWD, "key_norm": cache.key_norm_BHkvD, **blocks}
    return {f"{prefix}_{name}": tensor for name, tensor in named.items()}


def cache_of(config: CacheConfig, layout: str, tensors: Mapping[str, Tensor], prefix: str, length_B: Tensor) -> Cache:
    """Return the cache that the table's named tensors hold; the inverse of `tensors_of`."""
    held = {name.removeprefix(f"{prefix}_"): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    window = held["window"]
    blocks = unpack(config, held["blocks"], window.shape[-1]) if layout == "packed" else Blocks.of(held)
    return Cache(config, length_B, window, held["key_norm"], blocks)


def _cache_and_new(config: CacheConfig, case: OpCase) -> tuple[Cache, dict[str, Tensor]]:
    """Return a cache that holds `case.past` random tokens, and the `case.new` that follow."""
    dtype = getattr(torch, case.dtype)
    generator = torch.Generator().manual_seed(case.seed)
    spread = torch.logspace(-0.5, 0.5, case.head_dim)

    def tokens(lengths: tuple[int, ...]) -> Tensor:
        shape = (2, len(lengths), case.kv_heads, max(lengths), case.head_dim)
        return (spread * torch.randn(shape, generator=generator)).to(dtype)

    old, new = tokens(case.past), tokens(case.new)
    for b, length in enumerate(case.new):
        new[:, b, :, length:] = torch.nan
    cache = empty_cache(config, len(case.past), case.kv_heads, case.head_dim, case.capacity_blocks, dtype)
    past_length, new_length = (torch.tensor(lengths, dtype=torch.int32) for lengths in (case.past, case.new))
    cache = append(cache, old[0], old[1], past_length)
    return cache, {"key": new[0], "value": new[1], "past_length": past_length, "new_length": new_length}
