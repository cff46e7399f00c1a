"""What each phase of a build needs: memory, disk, and seconds where past builds tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from innerq_export.checkpoint.support import experts_of
from innerq_export.engine import BACKENDS, BuildRequest
from innerq_export.plan.costs import (
    MEMORY,
    MODEL_FILE,
    PLAN_FILE,
    PLAN_FILE_SPLIT,
    PLAN_FILE_STRIPPED,
    REPORT_BYTES,
    STRIPPED,
    Weights,
    calibration_memory,
    parity_memory,
    weights_of,
)
from innerq_export.plan.headers import Headers
from innerq_export.plan.history import NVIDIA, PastBuild, seconds_of
from innerq_export.plan.machine import same_disk


@dataclass(frozen=True)
class Phase:
    """One phase: peak bytes of main memory, bytes that it adds to the disk, seconds or None where nobody knows yet."""

    name: str
    memory: int
    disk: int
    seconds: float | None


def phases_of(headers: Headers, request: BuildRequest, backend: str, history: Sequence[PastBuild]) -> tuple[Phase, ...]:
    """Return the phases of building `request` for `backend`, in order. Disk of the download is the hub cache's."""
    weights, layers = _weights(headers, request), _layers(headers)
    disk = _disk(headers, request, backend, weights)
    memory = {name: cost.at(layers, weights.engine) for name, cost in MEMORY.items()}
    if request.options.strip_weights:
        memory["tensorrt-rtx"] = STRIPPED.at(layers, 0)
    for name in NVIDIA:
        memory[name] += memory["onnxruntime"]
    folder = weights.engine + sum(disk.values())
    vocab = headers.shape.vocab
    memory["parity"] = parity_memory(layers, vocab, headers.tensors, request.dtype, weights.engine, folder)
    memory["calibrate"] = calibration_memory(headers.tensors, headers.config)
    names = ["calibrate"] if request.key_norm_text else []
    names += ["export", "write", "onnxruntime", *([backend] if backend in NVIDIA else []), "hash"]
    names += ["parity"] if request.parity != "off" else []
    found = [
        Phase(name, memory[name], disk.get(name, 0), seconds_of(name, weights.engine, layers, history))
        for name in names
    ]
    return (Phase("download", 0, headers.to_download, None), *found) if headers.to_download else tuple(found)


def _weights(headers: Headers, request: BuildRequest) -> Weights:
    return weights_of(headers.tensors, request.dtype, request.cache.key_norm)


def _layers(headers: Headers) -> int:
    """Return how many layers the graph weighs: an expert takes about a quarter of a dense layer's memory and nodes."""
    return headers.shape.layers + experts_of(headers.config) // 4


def _disk(headers: Headers, request: BuildRequest, backend: str, weights: Weights) -> dict[str, int]:
    layers = _layers(headers)
    model = MODEL_FILE.at(layers, 0)
    written = weights.cast if _linkable(headers, request) else weights.engine
    return {
        "write": model * (2 if backend == "tensorrt" else 1) + written,
        backend: _plan_file(request, backend, weights.engine, layers) if backend in NVIDIA else 0,
        "hash": REPORT_BYTES,
    }


def _plan_file(request: BuildRequest, backend: str, weights: int, layers: int) -> int:
    split = request.options.split_profiles or not BACKENDS[backend].one_profile
    if request.options.strip_weights:
        return PLAN_FILE_STRIPPED.at(layers, 0) * (2 if split else 1)
    return (PLAN_FILE_SPLIT if split else PLAN_FILE).at(layers, weights)


def _linkable(headers: Headers, request: BuildRequest) -> bool:
    if request.copy_weights:
        return False
    files = {ref.file for ref in headers.tensors}
    return all(same_disk(file, request.output) for file in files)
