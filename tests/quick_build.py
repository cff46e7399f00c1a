"""Builds of a tiny checkpoint in which only what is slow has stand-ins: the libraries' builders, parity's ladder, and
torch's tracing, which is done once for each dtype.

Graph, rewrite, model.onnx, ledger, manifest and folder are the real ones.
"""

from __future__ import annotations

import functools
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import onnx_ir as ir
import pytest

from innerq_export import parity
from innerq_export.engine import BuildRequest
from innerq_export.engine.base import Built
from innerq_export.engine.onnxruntime import OnnxRuntimeBackend
from innerq_export.engine.stage_record import read_record
from innerq_export.engine.tensorrt_rtx import TensorRtRtxBackend
from innerq_export.engine.versions import version_of
from innerq_export.graph import trace
from innerq_export.parity import recording
from innerq_export.pipeline import build
from innerq_export.progress import Silent

STAGES = {"export", "model.onnx", "onnxruntime", "tensorrt-rtx", "parity"}


def stand_in(patch: pytest.MonkeyPatch) -> None:
    """Replace builders and parity for as long as `patch` lasts."""
    patch.setattr(trace, "trace", functools.partial(_trace_once, {}, trace.trace))
    patch.setattr(OnnxRuntimeBackend, "build", lambda *_: Built(("model.onnx",), _version("onnxruntime")))
    patch.setattr(TensorRtRtxBackend, "refusal", lambda _: None)
    patch.setattr(TensorRtRtxBackend, "check", lambda *_: None)
    patch.setattr(TensorRtRtxBackend, "build", _build_rtx)
    patch.setattr(parity, "look_closely", _look)
    patch.setattr(recording, "save_accuracy", lambda *_: None)
    patch.setattr("innerq_export.figures.parity.parity_figures", _draw)


def made(model: Path, output: Path, progress=None, **choices: object) -> set[str]:
    """Build for TensorRT-RTX and return the stages that were made, not reused; 'trace' if the graph was traced."""
    engine = build(BuildRequest(str(model), output, backend="tensorrt-rtx", **choices), progress)
    assert engine.manifest["ready"] is (choices.get("parity") != "off")
    record = read_record(output)
    assert record is not None
    names = {name for name, stage in record.stages.items() if not stage.reused}
    traced = "export" in names and not record.stages["export"].result["saved"]
    return names | {"trace"} if traced else names


def _version(name: str) -> dict[str, str]:
    return {name: version_of(name) or "none"}


def _trace_once(known, real_trace, skeleton, step):
    if skeleton.dtype not in known:
        known[skeleton.dtype] = ir.to_proto(real_trace(skeleton, step))
    return ir.from_proto(known[skeleton.dtype])


def _build_rtx(self, model, folder, profiles, options, step) -> Built:
    text = f"{model.path.read_bytes()!r} {profiles} {options} {_version('tensorrt-rtx')}"
    (folder / "model.engine").write_text(text)
    return Built(("model.engine",), _version("tensorrt-rtx"), {"compute_capabilities": ["8.9"]})


def _look(folder, source, *, extent, progress=None) -> SimpleNamespace:
    """Do as `look_closely` does with an engine that passes."""
    with (progress or Silent()).stage("parity"):
        summary = {"passed": True, "summary": extent, "figures": {}}
        report = SimpleNamespace(passed=True, summary=summary, to_json=lambda: json.dumps(summary))
        return SimpleNamespace(report=report)


def _draw(report, folder) -> list[Path]:
    (folder / "parity-light.svg").write_text("<svg/>")
    return []


class Watched:
    """A progress that calls `left` with the name of each stage just before it is over."""

    def __init__(self, left):
        self._left = left

    @contextmanager
    def stage(self, name):
        with Silent().stage(name) as step:
            yield step
        self._left(name)
