"""The packed cache of all layers of a torch session: the kernels (on a card, or their host build) or the reference."""

from __future__ import annotations

import ctypes
import dataclasses

import torch
from torch import Tensor

from innerq_export.artifacts import ModelShape
from innerq_export.errors import ConfigError, EnvironmentMismatchError
from innerq_export.integrations import calls, cpu, views
from innerq_export.integrations.cache import PackedCache, empty_packed_cache
from innerq_export.integrations.library import Library, default_library
from innerq_export.integrations.prefill import prefill
from innerq_export.integrations.structs import MAX_ATTEND_TOKENS
from innerq_export.spec import CacheConfig


class TorchCache:
    """Tensors of every layer for `batch` sequences with room for `capacity` blocks each.

    `past_length_B` and `new_length_B` (int32, all layers share them) are read on the device and never replaced, so a
    captured CUDA graph sees what a step writes into them. `shape` is that of this rank: its own KV heads. `dtype`: of
    the window; float32 only on the CPU.
    """

    def __init__(
        self,
        config: CacheConfig,
        shape: ModelShape,
        batch: int,
        capacity: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        library: Library | None = None,
    ):
        self.capacity, self._device = capacity, device
        self._library = library or library_for(device, dtype)
        sizes = (batch, shape.kv_heads, shape.head_dim, capacity)
        self._flags = torch.zeros(1, dtype=torch.int32, device=device)
        self.layers = [
            dataclasses.replace(empty_packed_cache(config, *sizes, dtype=dtype, device=device), flags=self._flags)
            for _ in range(shape.layers)
        ]
        self.past_length_B, self.new_length_B = (torch.zeros(batch, dtype=torch.int32, device=device) for _ in range(2))
        self._workspaces: list[Tensor] = []

    @property
    def nbytes(self) -> int:
        """Bytes of all layers' tensors."""
        return sum(
            tensor.nbytes
            for layer in self.layers
            for tensor in (layer.window_B2HkvWD, layer.key_norm_BHkvD, layer.blocks)
        )

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` blocks; what the cache holds stays. One layer at a time is there twice.

        Graphs that were captured before point at the former tensors and must be captured again.
        """
        for index, layer in enumerate(self.layers):
            batch, heads, held, words = layer.blocks.shape
            blocks = layer.blocks.new_zeros(batch, heads, capacity, words)
            blocks[:, :, :held].copy_(layer.blocks)
            self.layers[index] = dataclasses.replace(layer, blocks=blocks)
        self.capacity = capacity
        self._workspaces.clear()

    @property
    def overflowed(self) -> bool:
        """Whether in some layer a sequence had no room and was left as it was; waits for the device."""
        return bool(self._flags.item())

    def attend(self, layer: int, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, scale: float) -> Tensor:
        """Append the new tokens to a layer, then return the attention [B, S, Hq, D] in the query's dtype."""
        dtype = self.layers[layer].window_B2HkvWD.dtype
        tokens = (query_BHqSD.to(dtype), key_BHkvSD.to(dtype), value_BHkvSD.to(dtype))
        return self._answer(self.layers[layer], tokens, scale).to(query_BHqSD.dtype)

    def _answer(self, cache: PackedCache, tokens: tuple[Tensor, Tensor, Tensor], scale: float) -> Tensor:
        lengths = (self.past_length_B, self.new_length_B)
        if self._library is None:
            cpu.append(cache, *tokens[1:], *lengths)
            return cpu.attend(cache, *tokens, *lengths, scale).transpose(1, 2).contiguous()
        calls.append(self._library, cache, *tokens[1:], *lengths)
        if tokens[0].shape[2] > MAX_ATTEND_TOKENS:
            return prefill(self._library, cache, *tokens, *lengths, scale).transpose(1, 2).contiguous()
        return self._attend_few(self._library, cache, tokens, scale)

    def _attend_few(
        self, library: Library, cache: PackedCache, tokens: tuple[Tensor, Tensor, Tensor], scale: float
    ) -> Tensor:
        """As `calls.attend`, with a workspace that stays clean: a launch less for every layer and step."""
        query, key, value = map(views.readable, tokens)
        batch, heads, count, head_dim = query.shape
        out_BSHqD = torch.empty(batch, count, heads, head_dim, dtype=query.dtype, device=query.device)
        lengths = (self.past_length_B, self.new_length_B)
        args = views.attend_view(query, key, value, out_BSHqD.transpose(1, 2), *lengths, scale, workspace_is_clean=True)
        refs = tuple(ctypes.byref(view) for view in (views.config_view(cache), views.cache_view(cache), args))
        with calls.on_device(cache):
            bytes_ = library.size_of("innerq_attend_workspace_bytes", *refs[:2], heads, count)
            workspace = self._clean_workspace(bytes_)
            tail = (workspace.data_ptr() or None, workspace.numel(), calls.stream_of(cache))
            library.call("innerq_attend", *refs, *tail)
        return out_BSHqD

    def _clean_workspace(self, bytes_: int) -> Tensor:
        """Return zeroed workspace that only innerq_attend writes; smaller ones stay for the graphs that use them."""
        if not self._workspaces or self._workspaces[-1].numel() < bytes_:
            self._workspaces.append(torch.zeros(bytes_, dtype=torch.uint8, device=self._device))
        return self._workspaces[-1]


def library_for(device: torch.device, dtype: torch.dtype) -> Library | None:
    """Return the kernels for a cache of this device and dtype; None, the reference, on a CPU without the host build.

    Raises EnvironmentMismatchError where a card has no library, ConfigError for a dtype that the kernels do not know.
    """
    if device.type == "cuda":
        if dtype not in views.ACTIVATION_OF:
            raise ConfigError("the kernels' window", expected="float16 or bfloat16", got=dtype, fix="--dtype float16")
        return default_library("cuda")
    try:
        return default_library("host") if dtype in views.ACTIVATION_OF else None
    except EnvironmentMismatchError:
        return None
