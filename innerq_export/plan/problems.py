"""Everything that stands against a build, found before it: each with the exit code it would end in, and the fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from innerq_export.checkpoint.folder import TOKENIZER_FILES
from innerq_export.checkpoint.support import refusals as unsupported
from innerq_export.engine import BuildRequest
from innerq_export.engine.tensorrt_rtx import DEFAULT_CAPABILITIES
from innerq_export.errors import EnvironmentMismatchError, OutOfMemoryError, UserError
from innerq_export.plan.cards import GpuCard
from innerq_export.plan.headers import Headers
from innerq_export.plan.history import NVIDIA
from innerq_export.plan.machine import existing_parent, free_disk
from innerq_export.plan.stages import Phase

NOTE = 0
MEMORY_CODE = OutOfMemoryError.exit_code
_FLOATS = {"F16", "BF16", "F32", "F64"}


@dataclass(frozen=True)
class Problem:
    """`code`: the exit code that the build would end with, 0 when it works all the same; `fix` mends it."""

    code: int
    text: str
    fix: str = ""


def of_error(error: UserError) -> Problem:
    """Return what an error of a later stage says as a problem."""
    parts = [error.what] + ([f"(got {error.got})"] if error.got is not None else [])
    return Problem(error.exit_code, " ".join(parts), error.fix or "")


def model_problems(headers: Headers) -> Iterator[Problem]:
    """Yield what of the checkpoint cannot be exported, or will be missed."""
    yield from (of_error(error) for error in unsupported(headers.config))
    others = sorted({ref.dtype for ref in headers.tensors} - _FLOATS)
    if others:
        yield Problem(1, f"weights of dtype {', '.join(others)}", "name the unquantised checkpoint")
    if not headers.to_download and not any((headers.folder / name).is_file() for name in TOKENIZER_FILES):
        yield Problem(NOTE, "the checkpoint has no tokenizer: `run` will have no text")


def memory_problems(phases: Sequence[Phase], available: int | None) -> Iterator[Problem]:
    """Yield each phase that needs more than the `available` bytes of main memory."""
    for phase in phases:
        if available is not None and phase.memory > available:
            text = f"phase '{phase.name}' needs {phase.memory:,} bytes of main memory, {available:,} are available"
            yield Problem(MEMORY_CODE, text, _smaller(phase.name))


def disk_problems(phases: Sequence[Phase], headers: Headers, output: Path) -> Iterator[Problem]:
    """Yield each disk, that of the output and that of the hub's cache, on which there is too little room."""
    places = {existing_parent(output): sum(phase.disk for phase in phases if phase.name != "download")}
    if headers.to_download:
        cache = existing_parent(headers.folder)
        places[cache] = places.get(cache, 0) + headers.to_download
    for place, needed in places.items():
        free = free_disk(place)
        if needed > free:
            text = f"{needed:,} bytes are needed on the disk of {place}, {free:,} are free"
            yield Problem(MEMORY_CODE, text, "make room, or choose another --output")


def card_problems(request: BuildRequest, backend: str, card: GpuCard | None) -> Iterator[Problem]:
    """Yield why an engine of `backend` would not run on `card`."""
    chosen = request.options.compute_capabilities or DEFAULT_CAPABILITIES
    if card is None or backend != "tensorrt-rtx" or card.compute_capability in chosen:
        return
    known = card.compute_capability in DEFAULT_CAPABILITIES
    yield Problem(
        EnvironmentMismatchError.exit_code,
        f"a TensorRT-RTX engine for {', '.join(chosen)} does not run on {card.name} ({card.compute_capability})",
        f"--compute-capability {card.compute_capability}" if known else "--backend tensorrt",
    )


def _smaller(phase: str) -> str:
    if phase == "parity":
        return "--parity off, and prove the engine on a larger machine; or --ignore-memory"
    other = "--backend onnxruntime, " if phase in NVIDIA else ""
    return f"{other}close other programs, or use a larger machine; or --ignore-memory"
