"""`check_engine`: the parity report of one engine folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from innerq_export.artifacts import Checkpoint
from innerq_export.errors import UserError
from innerq_export.parity.cases import FAST, Case
from innerq_export.parity.report import ParityReport
from innerq_export.progress import Progress, Silent, Step

if TYPE_CHECKING:
    from innerq_export.engine.manifest import Manifest
    from innerq_export.parity.ladder import Ladder
    from innerq_export.parity.observation import Runner

REPORT_NAME = "parity.json"
_SMALL_BYTES = 200 << 20
_PACKAGES = ("innerq-export", "onnxruntime", "torch", "transformers")


def check_engine(
    folder: Path,
    source: Checkpoint | Path | None,
    *,
    cases: Sequence[Case] = FAST,
    progress: Progress | None = None,
) -> ParityReport:
    """Hold the engine in `folder` to the reference and to `source`, what it was made from.

    `source` is a checkpoint (the Hugging Face model in PyTorch), the user's plain decoder .onnx, or None; rungs that
    would need more than it gives are listed as not run. `passed` is false when any rung found something; for that
    nothing is raised, and nothing is written at all. Cases are cut where the model's context ends. Raises UserError for
    a folder that cannot be run, or a checkpoint that the engine was not made from.
    """
    from innerq_export.engine.folder import read_manifest
    from innerq_export.parity.runners.onnxruntime import OnnxRuntimeRunner
    from innerq_export.parity.threads import torch_threads

    manifest = read_manifest(folder)
    if isinstance(source, Checkpoint):
        _check_source(folder, manifest, source)
    small = _is_small(manifest)
    threads = 1 if small else 0
    with (progress or Silent()).stage("parity") as step, torch_threads(threads):
        runner = OnnxRuntimeRunner(folder, manifest.model.layers, threads, shipped=small)
        return check_runner(runner, folder, manifest, source, cases, step)


def check_runner(
    runner: Runner,
    folder: Path,
    manifest: Manifest,
    source: Checkpoint | Path | None,
    cases: Sequence[Case],
    step: Step,
) -> ParityReport:
    """Do what `check_engine` does, with the engine run by `runner`."""
    from innerq_export.parity.ladder import open_ladder
    from innerq_export.parity.text import token_streams

    started = time.monotonic()
    fitting = [case for case in (case.within(manifest.model.max_positions) for case in cases) if case]
    batch, longest = max(case.batch for case in fitting), max(max(case.totals) for case in fitting)
    streams_BT = token_streams(folder, manifest.model.vocab, batch, longest)
    step.advance(0.0, "opening the model without a cache")
    ladder = open_ladder(runner, manifest, source, streams_BT)
    done, total = 0, sum(len(case.calls) for case in fitting)
    for case in fitting:

        def tick(name: str = case.name) -> None:
            nonlocal done
            done += 1
            step.advance(done / total, name)

        if not ladder.climb(case, streams_BT, tick):
            break
    return _report(ladder, manifest, source, fitting, time.monotonic() - started)


def _report(
    ladder: Ladder, manifest: Manifest, source: Checkpoint | Path | None, cases: Sequence[Case], seconds: float
) -> ParityReport:
    return ParityReport(
        engine=f"{manifest.source} in {ladder.runner.name} ({manifest.dtype}, {manifest.lowering})",
        against=_against(source),
        passed=ladder.finding is None,
        rungs=ladder.results(),
        finding=ladder.finding,
        cases=tuple(case.name for case in cases),
        layers_db=ladder.layers_db,
        versions={package: _version(package) for package in _PACKAGES},
        seconds=round(seconds, 2),
        notes=tuple(manifest.notes),
    )


def _against(source: Checkpoint | Path | None) -> str:
    if source is None:
        return "the reference"
    other = f"{source.name} in ONNX Runtime" if isinstance(source, Path) else f"PyTorch on {source.source}"
    return f"the reference and {other}"


def _check_source(folder: Path, manifest: Manifest, checkpoint: Checkpoint) -> None:
    if manifest.source_digest == checkpoint.digest:
        return
    raise UserError(
        f"{folder} was not made from {checkpoint.source} as it is now",
        expected=f"digest {manifest.source_digest[:16]} of {manifest.source}",
        got=f"digest {checkpoint.digest[:16]}",
        fix="name the checkpoint that the engine was built from, or build the engine again",
    )


def _is_small(manifest: Manifest) -> bool:
    """Whether a second session costs little and threads more than they bring (two pools spin against each other)."""
    return sum(entry.bytes for entry in manifest.files.values()) < _SMALL_BYTES


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
