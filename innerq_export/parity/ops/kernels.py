"""The kernels through their C ABI: the library's host build on the CPU, its CUDA build on a card."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor

from innerq_export.errors import UserError
from innerq_export.integrations import calls, structs, views
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import Library, load
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, Op

_DEVICES = {"host": "cpu", "cuda": "cuda"}


class KernelOps:
    """`kind` 'host' or 'cuda'; the library is sought where `integrations.resolve` says."""

    layout = "packed"

    def __init__(self, kind: str):
        self.name = f"{'host' if kind == 'host' else 'GPU'} kernels"
        self.kind, self.device = kind, _DEVICES[kind]

    def lacks(self, config: CacheConfig, dtype: str) -> str:
        """Say that there is no card, no library, or no kernel of this type."""
        if self.kind == "cuda" and not torch.cuda.is_available():
            return "no CUDA card"
        if dtype == "float32":
            return "the kernels take float16 and bfloat16, not float32"
        try:
            self.library  # noqa: B018 (loads it)
        except UserError as error:
            return f"{error.what}; {error.fix}"
        return ""

    @cached_property
    def library(self) -> Library:
        """The loaded library. EnvironmentMismatchError where there is none."""
        return load(self.kind)

    def run(self, op: Op, config: CacheConfig, inputs: Mapping[str, Tensor], scale: float = 0.0) -> dict[str, Tensor]:
        """Run on copies of the inputs, on the device."""
        on_device = {name: tensor.clone().to(self.device) for name, tensor in inputs.items()}
        cache = _cache(config, on_device, "past" if op is APPEND else "present")
        key, value = on_device["key"], on_device["value"]
        lengths = on_device["past_length"], on_device["new_length"]
        if op is APPEND:
            calls.append(self.library, cache, key, value, *lengths)
            held = {"window": cache.window_B2HkvWD, "key_norm": cache.key_norm_BHkvD, "blocks": cache.blocks}
            return {f"present_{name}": tensor.cpu() for name, tensor in held.items()}
        attend = calls.attend if key.shape[2] <= structs.MAX_ATTEND_TOKENS else _prefill
        return {"output": attend(self.library, cache, on_device["query"], key, value, *lengths, scale).cpu()}


def _cache(config: CacheConfig, tensors: Mapping[str, Tensor], prefix: str) -> PackedCache:
    window, key_norm, blocks = (tensors[f"{prefix}_{part}"] for part in ("window", "key_norm", "blocks"))
    flags = torch.zeros(1, dtype=torch.int32, device=window.device)
    return PackedCache(config, window, key_norm, blocks, flags)


def _prefill(
    library: Library,
    cache: PackedCache,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor,
    scale: float,
) -> Tensor:
    """Attend by innerq_prefill, which takes any number of tokens; the output is poisoned before."""
    query, key, value = (views.readable(tensor) for tensor in (query, key, value))
    out = torch.full_like(query, torch.nan)
    args = views.attend_view(query, key, value, out, past_length_B, new_length_B, scale)
    args.max_past = int(past_length_B.max())
    config, view = views.config_view(cache), views.cache_view(cache)
    refs = (ctypes.byref(config), ctypes.byref(view))
    workspace = calls.scratch(cache, library.size_of("innerq_prefill_workspace_bytes", *refs, args.max_past))
    tail = (workspace.data_ptr() or None, workspace.numel(), calls.stream_of(cache))
    with calls.on_device(cache):
        library.call("innerq_prefill", *refs, ctypes.byref(args), *tail)
    return out
