"""What the builder process is asked to do, and what it says on the way: plain values that travel as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from innerq_export.engine.profiles import Profile, Range


@dataclass(frozen=True)
class PlanRequest:
    """Build the ONNX file `model` into the engine file `plan` with TensorRT module `binding`.

    `binding`: 'tensorrt_rtx' or 'tensorrt'; `compute_capabilities` such as '8.9' for TensorRT-RTX; for TensorRT the
    plugin `library` and the `timing_cache` file (see `BuildOptions`). `weights`: the files that the model refers to.
    """

    binding: str
    model: Path
    plan: Path
    profiles: tuple[Profile, ...]
    compute_capabilities: tuple[str, ...] = ()
    library: Path | None = None
    timing_cache: Path | None = None
    weights: tuple[Path, ...] = ()

    def to_json(self) -> str:
        """Return one line of JSON; `from_json` gives back an equal request."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> PlanRequest:
        """Return the request that `to_json` wrote."""
        fields = json.loads(text)
        paths = {name: _path(fields[name]) for name in ("model", "plan", "library", "timing_cache")}
        profiles = tuple(_profile(profile) for profile in fields["profiles"])
        capabilities = tuple(fields["compute_capabilities"])
        weights = tuple(map(Path, fields["weights"]))
        lists = {"profiles": profiles, "compute_capabilities": capabilities, "weights": weights}
        return cls(**fields | paths | lists)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _profile(fields: dict[str, Any]) -> Profile:
    ranges = {name: Range(**fields[name]) for name in ("batch", "tokens", "blocks")}
    return Profile(name=fields["name"], **ranges)
