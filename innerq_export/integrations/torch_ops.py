"""`torch.ops.innerq.append` and `.attend`: the kernels on CUDA tensors, the reference on CPU tensors.

Arguments come as inference servers with custom cached attention pass them: tokens, lengths, caches, constants. Cache
tensors are changed in place and declared so; the caller advances the lengths. Importing this module registers the ops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from innerq_export.integrations import calls, cpu
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import default_library
from innerq_export.integrations.prefill import prefill
from innerq_export.integrations.structs import MAX_ATTEND_TOKENS
from innerq_export.spec import CacheConfig

_CONSTANTS = "int key_bits, str key_mode, int value_bits, str value_mode, int sink, int recent, str key_norm_mode"
_APPEND = (
    "(Tensor key, Tensor value, Tensor past_length, Tensor new_length, Tensor(a!) window, Tensor(b!) key_norm, "
    f"Tensor(c!) blocks, Tensor(d!) flags, Tensor? block_table, {_CONSTANTS}) -> ()"
)
_ATTEND = (
    "(Tensor query, Tensor key, Tensor value, Tensor past_length, Tensor new_length, Tensor window, Tensor key_norm, "
    f"Tensor blocks, Tensor flags, Tensor? block_table, {_CONSTANTS}, float scale) -> Tensor"
)
_MUTATES = ("window", "key_norm", "blocks", "flags")


def append(
    cache: PackedCache, key_BHkvSD: Tensor, value_BHkvSD: Tensor, past_length_B: Tensor, new_length_B: Tensor
) -> None:
    """Append `new_length_B[b]` <= S tokens behind `past_length_B[b]` (int32 on the device); the cache changes in place.

    On CUDA a sequence without room is left unharmed and `cache.flags` says so; on the CPU that raises.
    """
    tensors = (key_BHkvSD, value_BHkvSD, past_length_B, new_length_B)
    torch.ops.innerq.append(*tensors, *_caches(cache), *constants_of(cache.config))


def attend(
    cache: PackedCache,
    query_BHqSD: Tensor,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor,
    scale: float = 0.0,
) -> Tensor:
    """Return attention [B, Hq, S, D] over a cache in which `append` has put these tokens; `scale` 0: 1/sqrt(D).

    On CUDA up to 16 tokens are one launch sequence without synchronisation; more take the prefill path, which reads
    the lengths on the host and so cannot be captured in a CUDA graph.
    """
    tensors = (query_BHqSD, key_BHkvSD, value_BHkvSD, past_length_B, new_length_B)
    return torch.ops.innerq.attend(*tensors, *_caches(cache), *constants_of(cache.config), scale)


def constants_of(config: CacheConfig) -> tuple[int | str, ...]:
    """Return the constants of a configuration in the order of the ops' schema."""
    keys, values = (config.key_bits, config.key_mode), (config.value_bits, config.value_mode)
    return (*keys, *values, config.sink, config.recent, config.key_norm)


def _caches(cache: PackedCache) -> tuple[Tensor | None, ...]:
    return cache.window_B2HkvWD, cache.key_norm_BHkvD, cache.blocks, cache.flags, cache.block_table_BP


def _cache(tensors: tuple[Any, ...], constants: tuple[Any, ...]) -> PackedCache:
    window, key_norm, blocks, flags, table = tensors
    names = ("key_bits", "key_mode", "value_bits", "value_mode", "sink", "recent", "key_norm")
    config = CacheConfig(**dict(zip(names, constants, strict=True)))
    return PackedCache(config, window, key_norm, blocks, flags, table)


def _append_cpu(*arguments: Any) -> None:
    cpu.append(_cache(arguments[4:9], arguments[9:]), *arguments[:4])


def _append_cuda(*arguments: Any) -> None:
    calls.append(default_library("cuda"), _cache(arguments[4:9], arguments[9:]), *arguments[:4])


def _attend_cpu(query: Tensor, key: Tensor, value: Tensor, past: Tensor, new: Tensor, *rest: Any) -> Tensor:
    return cpu.attend(_cache(rest[:5], rest[5:-1]), query, key, value, past, new, rest[-1])


def _attend_cuda(query: Tensor, key: Tensor, value: Tensor, past: Tensor, new: Tensor, *rest: Any) -> Tensor:
    attention = calls.attend if query.shape[2] <= MAX_ATTEND_TOKENS else prefill
    cache = _cache(rest[:5], rest[5:-1])
    return attention(default_library("cuda"), cache, query, key, value, past, new, rest[-1])


def _append_fake(*_: Any) -> None:
    return None


def _attend_fake(query: Tensor, *_: Any) -> Tensor:
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)


_append_op = torch.library.custom_op(
    "innerq::append", _append_cpu, mutates_args=_MUTATES, device_types="cpu", schema=_APPEND
)
_append_op.register_kernel("cuda", _append_cuda)
_append_op.register_fake(_append_fake)
_attend_op = torch.library.custom_op("innerq::attend", _attend_cpu, mutates_args=(), device_types="cpu", schema=_ATTEND)
_attend_op.register_kernel("cuda", _attend_cuda)
_attend_op.register_fake(_attend_fake)
