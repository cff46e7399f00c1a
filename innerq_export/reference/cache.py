"""The cache of one layer and Append: SPEC sections 2, 5 and 7, one sequence after the other, nothing in place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.errors import UserError
from innerq_export.reference.blocks import Blocks, empty_blocks, quantise_blocks
from innerq_export.reference.quantise import require_finite
from innerq_export.spec import GROUP_SIZE, CacheConfig, blocks_of

FP16_MAX = 65504.0


@dataclass(frozen=True)
class Cache:
    """What one layer holds: n tokens per sequence (int32), the window, lambda (fp16) and the quantised blocks.

    The window's axis 1 is (keys, values); W = S + R + 32; its dtype is that of the activations.
    """

    config: CacheConfig
    length_B: Tensor
    window_B2HkvWD: Tensor
    key_norm_BHkvD: Tensor
    blocks: Blocks

    def blocks_held(self, sequence: int) -> int:
        """Return q(n) of one sequence."""
        return blocks_of(self.config, int(self.length_B[sequence]))


def empty_cache(
    config: CacheConfig,
    batch: int,
    kv_heads: int,
    head_dim: int,
    capacity_blocks: int,
    dtype: torch.dtype = torch.float16,
) -> Cache:
    """Return a cache that holds no token: lambda 1, everything else 0."""
    return Cache(
        config=config,
        length_B=torch.zeros(batch, dtype=torch.int32),
        window_B2HkvWD=torch.zeros(batch, 2, kv_heads, config.window_tokens, head_dim, dtype=dtype),
        key_norm_BHkvD=torch.ones(batch, kv_heads, head_dim, dtype=torch.float16),
        blocks=empty_blocks(config, batch, kv_heads, head_dim, capacity_blocks),
    )


def slot_of(config: CacheConfig, token: Tensor) -> Tensor:
    """Return the window slot of each token: t if t < S, else S + (t - S) mod (R + 32)."""
    ring = config.recent + GROUP_SIZE
    return torch.where(token < config.sink, token, config.sink + (token - config.sink) % ring)


def append(cache: Cache, key_BHkvSD: Tensor, value_BHkvSD: Tensor, new_length_B: Tensor) -> Cache:
    """Return the cache after `new_length_B[b]` <= S new tokens of each sequence; what lies beyond them is padding.

    UserError for wrong shapes or dtypes, non-finite values and values beyond +-65,504, and when blocks run out.
    """
    _check(cache, key_BHkvSD, value_BHkvSD, new_length_B)
    window = cache.window_B2HkvWD.clone()
    key_norm = cache.key_norm_BHkvD.clone()
    due = any(_due(cache, b, int(new)) for b, new in enumerate(new_length_B))
    blocks = cache.blocks.clone() if due else cache.blocks
    for b, new in enumerate(new_length_B.tolist()):
        new_2HkvSD = torch.stack([key_BHkvSD[b, :, :new], value_BHkvSD[b, :, :new]])
        _check_values(new_2HkvSD, b)
        if _due(cache, b, new):
            key_norm[b] = _flush(cache, b, new_2HkvSD, blocks)
        _write_window(cache, b, new_2HkvSD, window)
    return dataclasses.replace(
        cache,
        length_B=cache.length_B + new_length_B.to(torch.int32),
        window_B2HkvWD=window,
        key_norm_BHkvD=key_norm,
        blocks=blocks,
    )


def _due(cache: Cache, b: int, new: int) -> range:
    """Return the blocks of sequence b that `new` more tokens move out of full precision."""
    return range(cache.blocks_held(b), blocks_of(cache.config, int(cache.length_B[b]) + new))


def _flush(cache: Cache, b: int, new_2HkvSD: Tensor, blocks: Blocks) -> Tensor:
    """Write the due blocks of sequence b into `blocks`; return its lambda [Hkv, D]."""
    due = _due(cache, b, new_2HkvSD.shape[2])
    first = cache.config.sink + GROUP_SIZE * due.start
    tokens = torch.arange(first, first + GROUP_SIZE * len(due))
    key_HkvTD, value_HkvTD = _read(cache, b, new_2HkvSD, tokens)
    key_norm = cache.key_norm_BHkvD[b]
    if cache.config.key_norm == "prefill" and due.start == 0:
        key_norm = key_norm_of(key_HkvTD)
    made = quantise_blocks(cache.config, key_HkvTD, value_HkvTD, key_norm).tensors()
    for name, tensor in blocks.tensors().items():
        tensor[b, :, due.start : due.stop] = made[name]
    return key_norm


def _read(cache: Cache, b: int, new_2HkvSD: Tensor, tokens: Tensor) -> Tensor:
    """Return keys and values [2, Hkv, T, D] of tokens that are still in the window or new."""
    past = int(cache.length_B[b])
    old = cache.window_B2HkvWD[b][:, :, slot_of(cache.config, tokens[tokens < past])]
    return torch.cat([old, new_2HkvSD[:, :, tokens[tokens >= past] - past]], dim=2)


def key_norm_of(key_HkvTD: Tensor) -> Tensor:
    """Return lambda = fp16(sqrt(max over tokens of abs K)) per channel, 1 where that is 0."""
    root = key_HkvTD.double().abs().amax(-2).sqrt()  # fp64: torch's fp32 sqrt on the CPU is not correctly rounded
    key_norm = root.to(torch.float32).to(torch.float16)
    return torch.where(key_norm == 0, 1.0, key_norm)


def _write_window(cache: Cache, b: int, new_2HkvSD: Tensor, window_B2HkvWD: Tensor) -> None:
    """Write the new tokens into their slots: all that are sink tokens, and the last R + 32 of the others."""
    config, past, new = cache.config, int(cache.length_B[b]), new_2HkvSD.shape[2]
    tokens = torch.arange(past, past + new)
    tokens = tokens[(tokens < config.sink) | (tokens >= past + new - config.recent - GROUP_SIZE)]
    window_B2HkvWD[b][:, :, slot_of(config, tokens)] = new_2HkvSD[:, :, tokens - past]


def _check(cache: Cache, key_BHkvSD: Tensor, value_BHkvSD: Tensor, new_length_B: Tensor) -> None:
    batch, _, kv_heads, _, head_dim = cache.window_B2HkvWD.shape
    new_tokens = key_BHkvSD.shape[-2]
    expected = (batch, kv_heads, new_tokens, head_dim)
    for name, tensor in (("key", key_BHkvSD), ("value", value_BHkvSD)):
        if tuple(tensor.shape) != expected:
            raise UserError(f"append: shape of '{name}'", expected=expected, got=tuple(tensor.shape))
        if tensor.dtype != cache.window_B2HkvWD.dtype:
            raise UserError(
                f"append: dtype of '{name}'",
                expected=cache.window_B2HkvWD.dtype,
                got=tensor.dtype,
                fix="make the cache with the dtype of the activations: empty_cache(..., dtype=...)",
            )
    lengths = new_length_B.tolist()
    if len(lengths) != batch or any(not 0 <= new <= new_tokens for new in lengths):
        raise UserError("append: 'new_length'", expected=f"{batch} lengths from 0 to {new_tokens}", got=lengths)
    for b, new in enumerate(lengths):
        if _due(cache, b, new).stop > cache.blocks.capacity:
            raise UserError(
                f"append: sequence {b} needs {_due(cache, b, new).stop} blocks",
                expected=f"at most {cache.blocks.capacity} (the cache's capacity)",
                got=f"{int(cache.length_B[b])} + {new} tokens",
                fix="make the cache with a larger capacity_blocks, or send fewer tokens",
            )


def _check_values(new_2HkvSD: Tensor, b: int) -> None:
    for name, tensor in zip(("key", "value"), new_2HkvSD.float(), strict=True):
        within = torch.where(tensor.abs() > FP16_MAX, torch.inf, tensor)
        require_finite(within, f"{name} of sequence {b}")
