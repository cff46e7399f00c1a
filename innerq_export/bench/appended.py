"""Append against the reference, bit for bit: both get the same tokens, the reference on a copy on the CPU."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from innerq_export.integrations import calls, cpu
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import Library

ALL = slice(None)


def wrong_words(
    library: Library,
    cache: PackedCache,
    rows: tuple[Tensor, Tensor],
    past_length_B: Tensor,
    new_length_B: Tensor,
    heads: slice = ALL,
) -> int:
    """Append keys and values [B, Hkv, S, D] in place; return how many words of window, lambda and records are wrong.

    `heads`: the KV heads that are compared; long prompts take the reference a second each. Plain caches only.
    """
    expected = _on_cpu(cache, heads)
    calls.append(library, cache, *rows, past_length_B, new_length_B)
    key, value = (tensor[:, heads].cpu() for tensor in rows)
    cpu.append(expected, key, value, past_length_B.cpu(), new_length_B.cpu())
    pairs = zip(_words(_on_cpu(cache, heads)), _words(expected), strict=True)
    return sum(int((got != wanted).sum()) for got, wanted in pairs)


def _on_cpu(cache: PackedCache, heads: slice) -> PackedCache:
    """Return a copy of some KV heads of a plain cache."""

    def copied(tensor: Tensor) -> Tensor:
        return tensor.to("cpu", copy=True).contiguous()

    return dataclasses.replace(
        cache,
        window_B2HkvWD=copied(cache.window_B2HkvWD[:, :, heads]),
        key_norm_BHkvD=copied(cache.key_norm_BHkvD[:, heads]),
        blocks=copied(cache.blocks[:, heads]),
        flags=copied(cache.flags),
    )


def _words(cache: PackedCache) -> tuple[Tensor, Tensor, Tensor]:
    return cache.window_B2HkvWD.view(torch.int16), cache.key_norm_BHkvD.view(torch.int16), cache.blocks
