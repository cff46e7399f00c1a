"""What builds took on this machine: a small file in the cache folder that `build` writes and estimates of time read."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from innerq_export.checkpoint.demo import cache_root
from innerq_export.engine.strict import decode
from innerq_export.plan.meter import Measured

FILE_NAME = "builds.json"
MOST_BUILDS = 100
NVIDIA = ("tensorrt-rtx", "tensorrt")
_NEAR = 8
_BY_BYTES = ("download", "write", "hash", "parity")
_PHASES = {
    "reading": "read",
    "calibrating": "calibrate",
    "exporting": "export",
    "rewriting": "write",
    "writing": "write",
    "hashing": "hash",
    "parity": "parity",
}


@dataclass(frozen=True)
class PastBuild:
    """One build: what it was of, and seconds and peak bytes by phase.

    While NVIDIA's builder runs in a process of its own, the bytes are of both. Helpers of other phases are not counted:
    only the parity of a checkout in which the plugin's host program was built has one, of 310 MB.
    """

    weight_bytes: int
    layers: int
    seconds: Mapping[str, float]
    peak_bytes: Mapping[str, int]


def phase_of(stage: str) -> str:
    """Return the phase that a stage of the pipeline belongs to: 'read', 'export', 'write', a backend, ..."""
    if stage.startswith("building for "):
        return stage.removeprefix("building for ")
    return _PHASES.get(stage.partition(" ")[0], stage)


def past_build(weight_bytes: int, layers: int, stages: Sequence[Measured]) -> PastBuild:
    """Return the record of a build whose stages were measured."""
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    for stage in stages:
        phase = phase_of(stage.stage)
        seconds[phase] = round(seconds.get(phase, 0.0) + stage.seconds, 3)
        child = (stage.child_peak or 0) if phase in NVIDIA else 0
        peaks[phase] = max(peaks.get(phase, 0), (stage.peak or 0) + child)
    return PastBuild(weight_bytes, layers, seconds, peaks)


def record_build(weight_bytes: int, layers: int, stages: Sequence[Measured]) -> None:
    """Add a build to the history; a cache folder that cannot be written only means that nothing is remembered."""
    builds = [*read_history(), past_build(weight_bytes, layers, stages)][-MOST_BUILDS:]
    try:
        _write(cache_root() / FILE_NAME, [asdict(build) for build in builds])
    except OSError:
        return


def read_history() -> list[PastBuild]:
    """Return the builds remembered, oldest first; none where the file is absent or damaged."""
    try:
        items = json.loads((cache_root() / FILE_NAME).read_text(encoding="utf-8"))
        return list(decode(tuple[PastBuild, ...], items))
    except (OSError, ValueError):
        return []


def seconds_of(phase: str, weight_bytes: int, layers: int, history: Sequence[PastBuild]) -> float | None:
    """Return what `phase` should take, from the past build nearest in size (the latest of equals); None without one.

    Scaled by bytes where bytes are the work, else by layers. Only tracing, which reads no weights, is foreseen from a
    build more than 8 times smaller or larger.
    """
    known = [build for build in reversed(history) if phase in build.seconds]
    if phase != "export":
        known = [build for build in known if _near(build.weight_bytes, weight_bytes)]
    if not known:
        return None
    nearest = min(known, key=lambda build: abs(math.log((build.weight_bytes + 1) / (weight_bytes + 1))))
    by_bytes = phase in _BY_BYTES and nearest.weight_bytes > 0
    factor = weight_bytes / nearest.weight_bytes if by_bytes else layers / max(1, nearest.layers)
    return nearest.seconds[phase] * factor


def _near(one: int, other: int) -> bool:
    return max(one, other) <= _NEAR * min(one, other)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as draft:
        json.dump(value, draft)
    os.replace(draft.name, path)
