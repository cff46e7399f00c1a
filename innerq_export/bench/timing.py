"""How long a launch takes. The one method for claims: "ev", event pairs around each launch; beside it "graph".

ev: median of CUDA-event pairs per launch over rotated data, the queue kept full by a sleeping kernel in front.
graph: launches captured into one CUDA graph over the same rotation, replayed, time of a replay over its launches.
Times include no host work. On the CPU, for tests only, both are the median of host clock readings.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Launch = Callable[[int], object]
ROUND = 64
ROUNDS = 5
BUDGET_US = 60_000
SLEEP_CYCLES = 12_000_000
GRAPH_LAUNCHES = 24
GRAPH_REPLAYS = 12
COPY_BYTES = 2_000_000_000


@dataclass(frozen=True)
class Timing:
    """Microseconds per launch; `graph_us` is None where the launch cannot be captured."""

    ev_us: float
    graph_us: float | None


def measure(launch: Launch, rotation: int, device: torch.device, *, graph: bool = True) -> Timing:
    """Time `launch(i)`, which works on data set i of `rotation`, in torch's current stream."""
    if device.type == "cpu":
        return _host(launch, rotation)
    for i in range(max(3, rotation)):
        launch(i % rotation)
    torch.cuda.synchronize(device)
    round_ = max(4, min(ROUND, int(BUDGET_US / events(launch, rotation, 4)[-1])))
    ev_us = statistics.median(sample for _ in range(ROUNDS) for sample in events(launch, rotation, round_))
    return Timing(ev_us, _graph(launch, rotation, ev_us) if graph else None)


def copy_bandwidth(device: torch.device) -> float:
    """Return bytes per second, read plus written, of a device-to-device copy timed by events."""
    size = COPY_BYTES if device.type == "cuda" else 8_000_000
    source, target = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    source.random_()
    timing = measure(lambda _: target.copy_(source), 1, device)
    return 2 * size / (timing.ev_us * 1e-6)


def events(launch: Launch, rotation: int, launches: int) -> list[float]:
    """Return microseconds by events of each of `launches` launches, all queued behind a sleeping kernel."""
    pairs = [(_event(), _event()) for _ in range(launches)]
    torch.cuda._sleep(SLEEP_CYCLES)
    for i, (before, after) in enumerate(pairs):
        before.record()
        launch(i % rotation)
        after.record()
    torch.cuda.synchronize()
    return [1e3 * before.elapsed_time(after) for before, after in pairs]


def replayed(launch: Launch, rotation: int, launches: int, replays: int) -> float:
    """Return microseconds per launch of a CUDA graph of `launches` launches; raises what capturing raises."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            launch(i % rotation)
    graph.replay()
    pairs = [(_event(), _event()) for _ in range(replays)]
    for before, after in pairs:
        before.record()
        graph.replay()
        after.record()
        torch.cuda.synchronize()
    return statistics.median(1e3 * before.elapsed_time(after) / launches for before, after in pairs)


def _graph(launch: Launch, rotation: int, ev_us: float) -> float | None:
    """Return microseconds per launch inside a graph, or None where capturing fails."""
    launches = rotation * -(-GRAPH_LAUNCHES // rotation)
    replays = max(3, min(GRAPH_REPLAYS, int(5 * BUDGET_US / (ev_us * launches))))
    try:
        return replayed(launch, rotation, launches, replays)
    except (RuntimeError, ValueError):
        torch.cuda.synchronize()
        return None


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _host(launch: Launch, rotation: int) -> Timing:
    samples = []
    for i in range(3):
        start = time.perf_counter()
        launch(i % rotation)
        samples.append(1e6 * (time.perf_counter() - start))
    return Timing(statistics.median(samples), statistics.median(samples))
