"""One decode step of a whole model over a given cache: as a CUDA graph, timed, taken apart, and its memory."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerq_export.bench.decode_caches import BenchCache
from innerq_export.runtime.torch_attention import attach, enrol
from innerq_export.runtime.torch_decoder import capture
from innerq_export.runtime.torch_model import is_compiled

ROUNDS, BUDGET_MS, MOST_STEPS = 3, 120.0, 48
PARTS = ("gemm", "attention", "append", "rest")
_ATTENTION = ("innerq::attend", "attend_kernel", "flash", "fmha", "cudnn", "decodewith", "prefillwith", "mergestates")
_APPEND = ("run_tiles", "direct_copy", "float8")
_PRODUCT_OF_ONE_ROW = re.compile(r"triton_(red|per)_fused_\w*_mm(_|$)")
"""How inductor names the reduction that a product of a single row becomes."""
_GEMM = ("gemm", "gemv", "nvjet", "cutlass", "splitk", "cublas")


@dataclass(frozen=True)
class StepTime:
    """Milliseconds per step: `ms` of graphs replayed one behind the other by events, `wall_ms` by the host's clock.

    `parts`: kernel time of a step by kind, of the profiler; None where it was not asked.
    """

    ms: float
    wall_ms: float
    parts: dict[str, float] | None = None
    kernels: int = 0


def _greedy(logits_B1V: Tensor) -> Tensor:
    return logits_B1V[:, -1].argmax(-1, keepdim=True)


class Step:
    """Greedy decoding of one token per sequence: model, argmax and the cache's lengths, all on the device."""

    def __init__(self, model: Any, cache: BenchCache, advance: bool):
        self._model, self._cache, self._advance = model, cache, advance
        self._greedy = torch.compile(_greedy, dynamic=False) if is_compiled(model) else _greedy
        attach(model, enrol(cache))
        batch = len(cache.past_length_B)
        self._ids_B1 = torch.zeros(batch, 1, dtype=torch.int64, device=cache.past_length_B.device)

    def __call__(self) -> None:
        """Run it once, eagerly."""
        position_B1 = self._cache.past_length_B[:, None].long()
        logits = self._model(input_ids=self._ids_B1, position_ids=position_B1, use_cache=False).logits
        self._ids_B1.copy_(self._greedy(logits))
        if self._advance:
            self._cache.past_length_B.add_(1)


def timed(step: Step, device: torch.device, *, parts: bool = False) -> StepTime:
    """Time `step`: on a card as a replayed graph, on the CPU (for tests) as it is."""
    if device.type != "cuda":
        with torch.no_grad():
            step()
            start = time.perf_counter()
            step()
        ms = 1e3 * (time.perf_counter() - start)
        return StepTime(ms, ms, {"rest": ms} if parts else None)
    graph, _ = capture(step)
    first = _replayed(graph.replay, 3)[0]
    steps = max(4, min(MOST_STEPS, int(BUDGET_MS / first)))
    rounds = [_replayed(graph.replay, steps) for _ in range(ROUNDS)]
    ms, wall_ms = (statistics.median(column) for column in zip(*rounds, strict=True))
    shares, kernels = _profiled(graph.replay) if parts else (None, 0)
    return StepTime(ms, wall_ms, shares, kernels)


def _replayed(replay: Callable[[], None], steps: int) -> tuple[float, float]:
    """Return ms per step by events and by the host's clock, from the first replay to the end of the last."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start = time.perf_counter()
    before.record()
    for _ in range(steps):
        replay()
    after.record()
    torch.cuda.synchronize()
    wall = time.perf_counter() - start
    return before.elapsed_time(after) / steps, 1e3 * wall / steps


def _profiled(replay: Callable[[], None], steps: int = 3) -> tuple[dict[str, float], int]:
    """Return ms of a step by kind of kernel, and how many kernels it has."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            replay()
        torch.cuda.synchronize()
    found = dict.fromkeys(PARTS, 0.0)
    kernels = 0
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            found[kind_of(event.name)] += event.device_time_total / 1e3 / steps
            kernels += 1
    return found, kernels // steps


def kind_of(kernel: str) -> str:
    """Return which of PARTS a kernel is, by its name."""
    name = kernel.lower()
    for kind, words in (("append", _APPEND), ("attention", _ATTENTION), ("gemm", _GEMM)):
        if any(word in name for word in words):
            return kind
    return "gemm" if _PRODUCT_OF_ONE_ROW.match(name) else "rest"
