"""A model and its cache, a step at a time: eager for prompts, one captured CUDA graph for single tokens."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from innerq_export.artifacts import ModelShape
from innerq_export.runtime.torch_attention import attach, enrol
from innerq_export.runtime.torch_cache import TorchCache
from innerq_export.runtime.torch_model import compile_layers
from innerq_export.spec import CacheConfig

_WARM_UP = 3


class Decoder:
    """Runs `model` over a `TorchCache`. On a card single tokens are replayed from one graph per batch and capacity.

    `shape` is this rank's. `compiled`: let torch compile the layers for single tokens. All work is on the current
    stream of `device`. `warm_up_seconds`: what compiling and capturing took so far.
    """

    def __init__(
        self, model: Any, config: CacheConfig, shape: ModelShape, dtype: torch.dtype, device: torch.device,
        *, compiled: bool = False,
    ):  # fmt: skip
        self._model, self._config, self._shape = model, config, shape
        self._dtype, self._device, self._compiled = dtype, device, compiled
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm, self.warm_up_seconds = False, 0.0
        if compiled:
            compile_layers(model)

    def allocate(self, batch: int, capacity: int) -> TorchCache:
        """Forget all and return an empty cache of `batch` sequences, which grows through `grow`."""
        self._graph, self._warm = None, False
        self.cache = TorchCache(self._config, self._shape, batch, capacity, dtype=self._dtype, device=self._device)
        attach(self._model, enrol(self.cache))
        self.ids_B1 = torch.zeros(batch, 1, dtype=torch.int64, device=self._device)
        return self.cache

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` blocks of each sequence."""
        self._graph, self._warm = None, False
        self.cache.grow(capacity)

    def close(self) -> None:
        """Let go of the graph, and of the communicator that it holds."""
        if self._graph:
            self._graph.reset()
            self._graph, self._warm = None, False

    def step(self, ids_BS: np.ndarray, past_length_B: np.ndarray, new_length_B: np.ndarray) -> Tensor:
        """Add the first `new_length_B[b]` tokens of each row; return logits [B, V] after the last, on the device."""
        self.cache.past_length_B.copy_(torch.from_numpy(past_length_B))
        self.cache.new_length_B.copy_(torch.from_numpy(new_length_B))
        if ids_BS.shape[1] == 1:
            self.ids_B1.copy_(torch.from_numpy(ids_BS))
            return self._single()
        last_B = np.maximum(new_length_B, 1) - 1
        kept, which_B = np.unique(last_B, return_inverse=True)
        ids, keep = torch.from_numpy(ids_BS).to(self._device), torch.from_numpy(kept).to(self._device)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits_BUV = self._forward(ids, keep)
        rows = torch.arange(len(last_B), device=self._device)
        return logits_BUV[rows, torch.from_numpy(which_B).to(self._device)]

    def _single(self) -> Tensor:
        if not self._warm and (self._compiled or self._device.type == "cuda"):
            self._warm_up()
        if self._graph is None:
            return self._last_logits()
        self._graph.replay()
        return self._logits_BV

    def _warm_up(self) -> None:
        """Compile, and on a card record, a step in which no sequence brings a token: the cache stays as it is."""
        start, news = time.perf_counter(), self.cache.new_length_B.clone()
        self.cache.new_length_B.zero_()
        if self._device.type == "cuda":
            self._graph, self._logits_BV = capture(self._last_logits)
        else:
            self._last_logits()
        self.cache.new_length_B.copy_(news)
        self._warm = True
        self.warm_up_seconds += time.perf_counter() - start

    def _last_logits(self) -> Tensor:
        with torch.no_grad():
            return self._forward(self.ids_B1, 1)[:, -1]

    def _forward(self, ids_BS: Tensor, keep: int | Tensor) -> Tensor:
        """Return the logits [B, kept, V]; `keep` is as transformers' logits_to_keep."""
        offsets_S = torch.arange(ids_BS.shape[1], device=ids_BS.device)
        position_BS = self.cache.past_length_B[:, None].long() + offsets_S
        return self._model(input_ids=ids_BS, position_ids=position_BS, use_cache=False, logits_to_keep=keep).logits


def capture(work: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Return `work` as a CUDA graph and what it returned, which every replay writes anew.

    Other threads may use CUDA meanwhile: NCCL's watchdog asks after events.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()
    return graph, result
