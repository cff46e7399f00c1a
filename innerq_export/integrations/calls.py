"""Append, Attend and dequantise of a PackedCache through a loaded library, on the current stream of its device."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from innerq_export.errors import ConfigError
from innerq_export.integrations import structs, views
from innerq_export.integrations.cache import PackedCache, check_tensors
from innerq_export.integrations.library import Library


def append(
    library: Library,
    cache: PackedCache,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor | None,
) -> None:
    """Append in place; `new_length_B` None means all S tokens of every sequence. Lengths: int32 on the device."""
    check_tensors(cache)
    _check_activations(cache, key=key_BHkvSD, value=value_BHkvSD)
    _check_lengths(cache, past_length=past_length_B, new_length=new_length_B)
    key, value = views.readable(key_BHkvSD), views.readable(value_BHkvSD)
    config, view = views.config_view(cache), views.cache_view(cache)
    args = views.append_view(key, value, past_length_B, new_length_B)
    with on_device(cache):
        bytes_ = library.size_of("innerq_append_workspace_bytes", ctypes.byref(config), ctypes.byref(view), args.tokens)
        workspace = scratch(cache, bytes_)
        library.call("innerq_append", *_refs(config, view, args), *_tail(workspace), stream_of(cache))


def attend(
    library: Library,
    cache: PackedCache,
    query_BHqSD: Tensor,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor | None,
    scale: float = 0.0,
) -> Tensor:
    """Return the attention [B, Hq, S, D] of S <= 16 new tokens that `append` has written already."""
    check_tensors(cache)
    _check_activations(cache, query=query_BHqSD, key=key_BHkvSD, value=value_BHkvSD)
    _check_lengths(cache, past_length=past_length_B, new_length=new_length_B)
    query, key, value = (views.readable(x) for x in (query_BHqSD, key_BHkvSD, value_BHkvSD))
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    config, view = views.config_view(cache), views.cache_view(cache)
    args = views.attend_view(query, key, value, out, past_length_B, new_length_B, scale)
    with on_device(cache):
        bytes_ = library.size_of("innerq_attend_workspace_bytes", *_refs(config, view), args.query_heads, args.tokens)
        workspace = scratch(cache, bytes_)
        library.call("innerq_attend", *_refs(config, view, args), *_tail(workspace), stream_of(cache))
    return out


def dequantise(library: Library, cache: PackedCache, length_B: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Return keys and values [B, Hkv, tokens, D] in token order as the cache of `length_B` tokens holds them."""
    check_tensors(cache)
    _check_lengths(cache, length=length_B)
    window = cache.window_B2HkvWD
    shape = (window.shape[0], window.shape[2], tokens, window.shape[-1])
    key, value = (torch.empty(shape, dtype=window.dtype, device=window.device) for _ in range(2))
    args = structs.DequantiseArgs(
        tokens=tokens, key_BHkvTD=key.data_ptr(), value_BHkvTD=value.data_ptr(), length_B=length_B.data_ptr()
    )
    config, view = views.config_view(cache), views.cache_view(cache)
    with on_device(cache):
        library.call("innerq_dequantise", *_refs(config, view, args), stream_of(cache))
    return key, value


def on_device(cache: PackedCache) -> AbstractContextManager[object]:
    """Make the cache's card the current one."""
    device = cache.window_B2HkvWD.device
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def stream_of(cache: PackedCache) -> int | None:
    """Return the cudaStream_t that torch works in, None on the CPU."""
    device = cache.window_B2HkvWD.device
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


def scratch(cache: PackedCache, bytes_: int) -> Tensor:
    """Return uninitialised workspace; torch's allocator gives it back to this stream only, so no wait is needed."""
    return torch.empty(bytes_, dtype=torch.uint8, device=cache.window_B2HkvWD.device)


def _refs(*views_: ctypes.Structure) -> tuple[object, ...]:
    return tuple(ctypes.byref(view) for view in views_)


def _tail(workspace: Tensor) -> tuple[int | None, int]:
    return (workspace.data_ptr() or None), workspace.numel()


def _check_activations(cache: PackedCache, **tensors: Tensor) -> None:
    window = cache.window_B2HkvWD
    batch, kv_heads, head_dim = window.shape[0], window.shape[2], window.shape[-1]
    new_tokens = next(iter(tensors.values())).shape[2:3]
    for name, tensor in tensors.items():
        heads = kv_heads if name != "query" else tensor.shape[1]
        expected = (batch, heads, *new_tokens, head_dim)
        got = (tuple(tensor.shape), tensor.dtype, tensor.device)
        if got != (expected, window.dtype, window.device) or heads % kv_heads:
            wanted = f"{list(expected)} {window.dtype} on {window.device}, heads a multiple of {kv_heads}"
            raise ConfigError(f"tensor '{name}'", expected=wanted, got=got)


def _check_lengths(cache: PackedCache, **tensors: Tensor | None) -> None:
    window = cache.window_B2HkvWD
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        got = (tuple(tensor.shape), tensor.dtype, tensor.device, tensor.is_contiguous())
        if got != ((window.shape[0],), torch.int32, window.device, True):
            raise ConfigError(f"'{name}'", expected=f"int32 [{window.shape[0]}] on {window.device}", got=got)
