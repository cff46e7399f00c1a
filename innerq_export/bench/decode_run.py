"""bench decode: one model, several caches under it, batch and context swept, in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from innerq_export.bench.decode import release
from innerq_export.bench.decode_caches import BenchCache, PlainCache, Room, empty_ours, ours, plain
from innerq_export.bench.decode_flashinfer import flashinfer
from innerq_export.bench.decode_model import CONFIGS, random_model
from innerq_export.bench.decode_report import OURS, DecodeReport, Fit, Point
from innerq_export.bench.decode_step import Step, timed
from innerq_export.bench.report import environment
from innerq_export.errors import ConfigError
from innerq_export.integrations.library import load
from innerq_export.progress import Progress, Silent
from innerq_export.progress import Step as ProgressStep
from innerq_export.spec import CacheConfig, preset

SWEEP = {
    1: (1024, 4096, 16384, 32768, 65536, 131072),
    8: (1024, 4096, 8192, 32768),
    32: (1024, 4096, 16384),
}
TAKEN_APART = ((1, 131072), (8, 32768), (32, 16384))
FIT_BATCH = 8
SMALL_SWEEP = {1: (256,), 2: (256,)}
_GIVE_UP = (RuntimeError, ValueError, ImportError, AttributeError, TypeError, AssertionError)


@dataclass(frozen=True)
class DecodeOptions:
    """What to measure: `sweep` maps batch to contexts, None is the model's own; `command` is told in the report."""

    model: str = "llama-3.1-8b"
    preset: str = "balanced"
    dtype: str = "float16"
    sweep: dict[int, tuple[int, ...]] | None = None
    peers: bool = True
    flashinfer: bool = True
    fit: bool = True
    compiled: bool = True
    library: Path | None = None
    device: str = "auto"
    command: str = ""


Make = Callable[[Room], BenchCache]


@dataclass
class _Bench:
    """What all points share."""

    options: DecodeOptions
    config: CacheConfig
    model: Any
    room: Callable[[int, int], Room]
    makers: dict[str, Make]
    device: torch.device
    refused: list[str] = field(default_factory=list)


def run(options: DecodeOptions, progress: Progress | None = None) -> DecodeReport:
    """Measure every cache at every point. Raises ConfigError, and EnvironmentMismatchError without a library."""
    progress, device = progress or Silent(), _device(options.device)
    if options.model not in CONFIGS:
        raise ConfigError("unknown model", expected=", ".join(CONFIGS), got=options.model, fix="choose one of these")
    library = load("cuda" if device.type == "cuda" else "host", options.library)
    dtype, config = getattr(torch, options.dtype), preset(options.preset)
    with progress.stage("making the model"):
        model, shape = random_model(CONFIGS[options.model], dtype, device, compiled=options.compiled)
    makers = {OURS: ours(config, library)} | _peers(options, device)
    room = lambda batch, tokens: Room(shape, batch, tokens, dtype, device)  # noqa: E731
    bench = _Bench(options, config, model, room, makers, device)
    with progress.stage("decoding") as step:
        points = list(_points(bench, step))
    with progress.stage("filling the memory"):
        fits = list(_fits(bench, library)) if options.fit and device.type == "cuda" else []
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    where = environment(name, asdict(library.build) | {"path": library.path.name})
    return DecodeReport(
        options.command, where, CONFIGS[options.model], options.preset,
        options.dtype, sum(p.nbytes for p in model.parameters()), points, fits, bench.refused,
    )  # fmt: skip


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _peers(options: DecodeOptions, device: torch.device) -> dict[str, Make]:
    if not options.peers:
        return {}
    kind = "fp16" if options.dtype == "float16" else "bf16"
    if device.type != "cuda":
        return {f"SDPA {kind}": plain(None)}
    makers: dict[str, Make] = {
        f"SDPA cuDNN {kind}": plain(SDPBackend.CUDNN_ATTENTION),
        f"SDPA flash {kind}": plain(SDPBackend.FLASH_ATTENTION),
    }
    return makers | ({"FlashInfer FA2 fp8": flashinfer} if options.flashinfer else {})


def _points(bench: _Bench, step: ProgressStep) -> Iterator[Point]:
    sweep = bench.options.sweep or (SWEEP if bench.device.type == "cuda" else SMALL_SWEEP)
    todo = [
        (batch, count, name)
        for late in (False, True)
        for batch in sweep
        for count in sweep[batch]
        for name in bench.makers
        if _compiles_long(name) == late
    ]
    for index, (batch, tokens, name) in enumerate(todo):
        step.advance(index / len(todo), f"{name}, {batch} x {tokens}")
        try:
            yield _point(bench, name, batch, tokens)
        except _GIVE_UP as error:
            if name == OURS:
                raise
            bench.refused.append(f"{name}, {batch} x {tokens}: {_first_line(error)}")
        release(bench.device)


def _compiles_long(name: str) -> bool:
    """FlashInfer compiles its kernels with nvcc first: its turn is the last, when that may be done already."""
    return name.startswith("FlashInfer")


def _point(bench: _Bench, name: str, batch: int, tokens: int) -> Point:
    _forget_peak(bench.device)
    cache = bench.makers[name](bench.room(batch, tokens))
    parts = (batch, tokens) in TAKEN_APART or bench.device.type != "cuda"
    time_ = timed(Step(bench.model, cache, advance=name == OURS), bench.device, parts=parts)
    peak = _peak(bench.device)
    return Point(name, batch, tokens, time_.ms, time_.wall_ms, cache.nbytes, peak, time_.parts, time_.kernels)


def _fits(bench: _Bench, library: Any) -> Iterator[Fit]:
    for name in [name for name in bench.makers if name == OURS or "cuDNN" in name]:
        empty = partial(empty_ours, bench.config, library=library) if name == OURS else _empty_plain
        per_token = _bytes_per_token(empty, bench.room)
        free = torch.cuda.mem_get_info(bench.device)[0]
        most = tokens = free // per_token // FIT_BATCH // 64 * 64
        while tokens > 0.9 * most:
            with suppress(torch.OutOfMemoryError):
                yield _fit(bench, name, empty, tokens)
                break
            release(bench.device)
            tokens -= max(64, most // 400 // 64 * 64)
        release(bench.device)


def _empty_plain(room: Room) -> PlainCache:
    return PlainCache(room, SDPBackend.CUDNN_ATTENTION)


def _bytes_per_token(empty: Callable[[Room], BenchCache], room: Callable[[int, int], Room]) -> int:
    """Return what a sequence of 4,096 tokens more adds, a token."""
    return (empty(room(1, 8192)).nbytes - empty(room(1, 4096)).nbytes) // 4096


def _fit(bench: _Bench, name: str, empty: Callable[[Room], BenchCache], tokens: int) -> Fit:
    _forget_peak(bench.device)
    cache = empty(bench.room(FIT_BATCH, tokens))
    with torch.no_grad():
        Step(bench.model, cache, advance=False)()
    torch.cuda.synchronize(bench.device)
    return Fit(name, FIT_BATCH, tokens, cache.nbytes, _peak(bench.device))


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
