"""The eight faults that issue and docs name, as changes of the reference: of a cache after Append, or of Attend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.reference import Blocks, Cache, append, attend, attend_over, dequantised_history, slot_of
from innerq_export.reference.blocks import dequantise_blocks, quantise_blocks
from innerq_export.reference.ops import cache_of, tensors_of
from innerq_export.spec import GROUP_SIZE
from innerq_export.spec.ops import APPEND


def sound(cache: Cache) -> Cache:
    return cache


def one_code(cache: Cache) -> Cache:
    def change(codes: Tensor) -> Tensor:
        codes = codes.clone()
        codes[0, 0, 0, 5, 9] = codes[0, 0, 0, 5, 9] + torch.where(codes[0, 0, 0, 5, 9] > 0, -1, 1)
        return codes

    return _with(cache, "value_codes", change) if cache.blocks_held(0) else cache


def scales_swapped(cache: Cache) -> Cache:
    order = torch.arange(cache.key_norm_BHkvD.shape[-1])
    order[[3, 4]] = order[[4, 3]]
    return _with(cache, "value_scales", lambda scales: scales[..., order])


def slot_off_by_one(cache: Cache) -> Cache:
    return dataclasses.replace(cache, window_B2HkvWD=cache.window_B2HkvWD.roll(1, 3))


def flushed_too_early(cache: Cache) -> Cache:
    """The next block's tokens are read quantised although they still belong to the window."""
    window = cache.window_B2HkvWD.clone()
    for b, length in enumerate(cache.length_B.tolist()):
        first = cache.config.sink + GROUP_SIZE * cache.blocks_held(b)
        if length < first + GROUP_SIZE:
            continue
        slots, norm = slot_of(cache.config, first + torch.arange(GROUP_SIZE)), cache.key_norm_BHkvD[b]
        blocks = quantise_blocks(cache.config, window[b, 0][:, slots], window[b, 1][:, slots], norm)
        key, value = (x.flatten(1, 2) for x in dequantise_blocks(cache.config, blocks))
        window[b, 0][:, slots] = (key * norm[:, None]).to(window.dtype)
        window[b, 1][:, slots] = value.to(window.dtype)
    return dataclasses.replace(cache, window_B2HkvWD=window)


def lambda_forgotten(cache: Cache, *rest) -> Tensor:
    return attend(dataclasses.replace(cache, key_norm_BHkvD=torch.ones_like(cache.key_norm_BHkvD)), *rest)


def heads_mixed(cache: Cache, query: Tensor, key: Tensor, *rest) -> Tensor:
    """Query head h uses KV head h mod Hkv."""
    kv_heads, group = key.shape[1], query.shape[1] // key.shape[1]
    order = torch.arange(query.shape[1]).view(group, kv_heads).T.flatten()
    return attend(cache, query[:, order], key, *rest)[:, order.argsort()]


def in_bf16(cache: Cache, query: Tensor, key: Tensor, value: Tensor, *rest) -> Tensor:
    coarse = (x.bfloat16().to(x.dtype) for x in (query, key, value))
    window = cache.window_B2HkvWD.bfloat16().to(cache.window_B2HkvWD.dtype)
    output = attend(dataclasses.replace(cache, window_B2HkvWD=window), *coarse, *rest)
    return output.bfloat16().to(output.dtype)


def last_split_dropped(cache: Cache, query: Tensor, key: Tensor, value: Tensor, past: Tensor, new: Tensor, *rest):
    """The newest quarter of the tokens before the call is not seen."""
    seen = past - past // 4
    history = (x[:, :, : int(seen.max())] for x in dequantised_history(cache, past))
    return attend_over(tuple(history), query, key, value, seen, new, *rest)


@dataclass(frozen=True)
class Mutation:
    """`cache` spoils what Append leaves, `attention` stands in for Attend."""

    name: str
    cache: Callable[[Cache], Cache] = sound
    attention: Callable[..., Tensor] = attend


MUTATIONS = (
    Mutation("one code off by one", one_code),
    Mutation("two scales swapped", scales_swapped),
    Mutation("lambda not applied", attention=lambda_forgotten),
    Mutation("window slot off by one", slot_off_by_one),
    Mutation("a block flushed too early", flushed_too_early),
    Mutation("GQA head mapped wrongly", attention=heads_mixed),
    Mutation("bf16 for fp16", attention=in_bf16),
    Mutation("last split dropped", attention=last_split_dropped),
)


class MutatedOps:
    """The reference with a fault, as a backend of the op rungs."""

    name = "mutated"

    def __init__(self, mutation: Mutation, layout: str = "logical"):
        self.mutation, self.layout = mutation, layout

    def lacks(self, config, dtype) -> str:
        return ""

    def run(self, op, config, inputs, scale=0.0):
        past, new = inputs["past_length"], inputs["new_length"]
        tokens = (inputs["key"], inputs["value"])
        if op is APPEND:
            after = append(cache_of(config, self.layout, inputs, "past", past), *tokens, new)
            return tensors_of(self.mutation.cache(after), self.layout, "present")
        cache = cache_of(config, self.layout, inputs, "present", past + new)
        return {"output": self.mutation.attention(cache, inputs["query"], *tokens, past, new, scale or None)}


def _with(cache: Cache, part: str, change: Callable[[Tensor], Tensor]) -> Cache:
    tensors = cache.blocks.tensors()
    return dataclasses.replace(cache, blocks=Blocks.of(tensors | {part: change(tensors[part])}))
