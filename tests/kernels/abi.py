"""Calls of innerq.h that the package's own binding does not make: conversion and prefill attention."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from innerq_export.integrations import calls, structs, views
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import Library
from innerq_export.reference import Blocks


def convert(library: Library, name: str, cache: PackedCache, blocks: Blocks, length_B: Tensor | None = None) -> None:
    """`name` innerq_to_logical or innerq_from_logical, in place; `blocks` on the cache's device."""
    args = structs.Logical(
        key_codes_BHkvNB32D=blocks.key_codes_BHkvN32D.data_ptr(),
        key_scales_BHkvNB32Dg=blocks.key_scales_BHkvN32E.data_ptr(),
        key_zeros_BHkvNB32Dg=views.pointer(blocks.key_zeros_BHkvN32E),
        value_codes_BHkvNB32D=blocks.value_codes_BHkvN32D.data_ptr(),
        value_scales_BHkvNBD=blocks.value_scales_BHkvND.data_ptr(),
        value_zeros_BHkvNBD=views.pointer(blocks.value_zeros_BHkvND),
        length_B=views.pointer(length_B),
    )
    config, view = views.config_view(cache), views.cache_view(cache)
    library.call(name, *(ctypes.byref(x) for x in (config, view, args)), calls.stream_of(cache))


def prefill(library: Library, cache: PackedCache, tokens: tuple[Tensor, Tensor, Tensor], past_B, new_B, max_past: int):
    """innerq_prefill of (query, key, value); outputs and workspace are poisoned with NaN before."""
    query, key, value = (views.readable(x) for x in tokens)
    out = torch.full_like(query, torch.nan, memory_format=torch.contiguous_format)
    args = views.attend_view(query, key, value, out, past_B, new_B)
    args.max_past = max_past
    config, view = views.config_view(cache), views.cache_view(cache)
    refs = (ctypes.byref(config), ctypes.byref(view))
    workspace = calls.scratch(cache, library.size_of("innerq_prefill_workspace_bytes", *refs, max_past)).fill_(0xFF)
    tail = (workspace.data_ptr() or None, workspace.numel(), calls.stream_of(cache))
    library.call("innerq_prefill", *refs, ctypes.byref(args), *tail)
    return out
