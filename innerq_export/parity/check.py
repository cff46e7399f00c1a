"""`check_engine`: the parity report of one engine folder, from packing up to what the user will see."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from innerq_export.artifacts import Checkpoint
from innerq_export.errors import UserError
from innerq_export.parity.cases import Case, cases_for, is_large
from innerq_export.parity.report import NOT_RUN, Finding, ParityReport, RungResult, versions_here
from innerq_export.parity.tolerances import model_floor_db
from innerq_export.progress import Progress, Silent, Step

if TYPE_CHECKING:
    from polygraphy.comparator import AccuracyResults
    from torch import Tensor

    from innerq_export.engine.manifest import Manifest
    from innerq_export.parity.accuracy import Tally
    from innerq_export.parity.call import Call
    from innerq_export.parity.ladder import Ladder, Recorded
    from innerq_export.parity.ops.rungs import RungOutcome
    from innerq_export.parity.runners.base import EngineRunner
    from innerq_export.parity.torch_model import TorchModel

REPORT_NAME, ACCURACY_NAME = "parity.json", "parity-accuracy.json"
SEEDS = {"fast": (0,), "full": tuple(range(10))}
_SMALL_BYTES = 200 << 20
_BELOW_FAILED = "a rung below it failed"


@dataclass
class Checked:
    """A report, what was compared by the name of its backend, and the least dB of logits.

    For --save and --bisect what was seen: every call on the text, and the one that failed.
    """

    report: ParityReport
    compared: list[tuple[str, Tally]]
    floor_db: float
    call: Call | None = None
    recorded: list[Recorded] = field(default_factory=list)

    @property
    def accuracy(self) -> AccuracyResults:
        """The worst result of every output and case, in Polygraphy's types."""
        from innerq_export.parity.accuracy import accuracy_results

        return accuracy_results(self.compared)


def check_engine(
    folder: Path,
    source: Checkpoint | Path | None,
    *,
    cases: Sequence[Case] | None = None,
    extent: str = "fast",
    only: Collection[str] = (),
    progress: Progress | None = None,
) -> ParityReport:
    """Hold the engine in `folder` to the reference and to `source`, what it was made from.

    `source` is a checkpoint (the Hugging Face model in PyTorch), the user's plain decoder .onnx, or None; rungs that
    would need more than it gives are listed as not run. `extent`: 'fast' or 'full', which sets the `cases` unless they
    are given; `only`: names of rungs, all by default. `passed` is false when any rung found something; for that
    nothing is raised, and nothing is written at all. Cases are cut where the model's context ends. Raises UserError for
    a folder that cannot be run, or a checkpoint that the engine was not made from.
    """
    return look_closely(folder, source, cases=cases, extent=extent, only=only, progress=progress).report


def look_closely(
    folder: Path,
    source: Checkpoint | Path | None,
    *,
    cases: Sequence[Case] | None = None,
    extent: str = "fast",
    only: Collection[str] = (),
    progress: Progress | None = None,
) -> Checked:
    """Do what `check_engine` does, and keep the logits of every call and the call that failed."""
    from innerq_export.engine.folder import read_manifest
    from innerq_export.parity.threads import torch_threads

    started = time.monotonic()
    manifest = read_manifest(folder)
    if isinstance(source, Checkpoint):
        _check_source(folder, manifest, source)
    size = sum(entry.bytes for entry in manifest.files.values())
    chosen = cases_for(extent, size) if cases is None else cases
    threads = 1 if size < _SMALL_BYTES else 0
    with (progress or Silent()).stage("parity") as step, torch_threads(threads):
        step.advance(0.0, "the ops alone")
        with _runner(folder, manifest, threads) as runner:
            outcomes = _check_ops(folder, manifest, extent, only)
            below = [outcome.result for outcome in outcomes]
            finding = next((outcome.finding for outcome in outcomes if outcome.finding), None)
            checked = check_runner(runner, folder, manifest, source, chosen, step, only=only, below=(below, finding))
            checked.compared = [*((outcome.result.backend, outcome.tally) for outcome in outcomes), *checked.compared]
        if extent == "full" and checked.report.passed and (not only or "presets" in only):
            below = [*checked.report.rungs, _presets(folder, manifest, source, size)]
            checked.report = checked.report.replace(rungs=tuple(below))
    checked.report = checked.report.replace(seconds=round(time.monotonic() - started, 2))
    return checked


def _runner(folder: Path, manifest: Manifest, threads: int) -> EngineRunner:
    """Return the runner of an engine folder, as its size allows."""
    from innerq_export.parity.runners.onnxruntime import OnnxRuntimeRunner

    size = sum(entry.bytes for entry in manifest.files.values())
    layers, small = manifest.model.layers, size < _SMALL_BYTES
    return OnnxRuntimeRunner(folder, layers, threads, shipped=small, in_place=is_large(manifest))


def check_runner(
    runner: EngineRunner,
    folder: Path,
    manifest: Manifest,
    source: Checkpoint | Path | None,
    cases: Sequence[Case],
    step: Step,
    *,
    only: Collection[str] = (),
    below: tuple[Sequence[RungResult], Finding | None] = ((), None),
) -> Checked:
    """Climb the engine's rungs with it run by `runner`, which is active.

    `below` are the results of the ops, and what was found there.
    """
    from innerq_export.parity.ladder import open_ladder
    from innerq_export.parity.plans import NAME, plan_results, torch_result
    from innerq_export.parity.text import token_streams

    fitting = [case for case in (case.within(manifest.model.max_positions) for case in cases) if case]
    batch, longest = max(case.batch for case in fitting), max(max(case.totals) for case in fitting)
    streams_BT = token_streams(folder, manifest.model.vocab, batch, longest + 1)
    step.advance(0.0, "opening the model without a cache")
    ladder = open_ladder(runner, manifest, source, streams_BT, only=only)
    results, finding = below
    models = _check_model(folder, manifest, ladder.model, only, _BELOW_FAILED if finding else "")
    finding = finding or next((outcome.finding for outcome in models if outcome.finding), None)
    if finding is None:
        _climb(ladder, fitting, streams_BT, step)
        finding = ladder.finding
    wanted = finding is None and (not only or NAME in only)
    setting = (folder, manifest, fitting, streams_BT)
    plans = [*plan_results(*setting), torch_result(*setting)] if wanted else []
    finding = finding or next((wrong for _, wrong in plans if wrong), None)
    engine = (*ladder.results(_BELOW_FAILED), *(result for result, _ in plans))
    rungs = (*results, *(outcome.result for outcome in models), *engine)
    report = _report(ladder, manifest, source, fitting).replace(rungs=rungs, passed=finding is None, finding=finding)
    compared = [*((outcome.result.backend, outcome.tally) for outcome in models), *ladder.compared]
    floor_db = model_floor_db(manifest.dtype, manifest.model.layers)
    return Checked(report, compared, floor_db, ladder.failed_call, ladder.recorded)


def _climb(ladder: Ladder, cases: Sequence[Case], streams_BT: Tensor, step: Step) -> None:
    """Climb every case until something is found."""
    done, total = 0, sum(len(case.calls) for case in cases)
    for case in cases:

        def tick(name: str = case.name) -> None:
            nonlocal done
            done += 1
            step.advance(done / total, name)

        if not ladder.climb(case, streams_BT, tick):
            break


def _check_ops(folder: Path, manifest: Manifest, extent: str, only: Collection[str]) -> list[RungOutcome]:
    """Run the rungs below the engine until one finds something; the rest is listed as not run."""
    from innerq_export.parity.ops import distinct_functions
    from innerq_export.parity.ops.rungs import OpSetting, op_rungs

    functions = distinct_functions(folder / "model.onnx", manifest.model.layers)
    setting = OpSetting(manifest.cache, manifest.model, manifest.dtype, SEEDS[extent])
    outcomes: list[RungOutcome] = []
    for rung in op_rungs(functions, setting, only):
        failed = any(outcome.finding for outcome in outcomes)
        outcomes.append(rung.not_run(_BELOW_FAILED) if failed else rung.run())
    return outcomes


def _check_model(
    folder: Path, manifest: Manifest, model: TorchModel | None, only: Collection[str], below: str
) -> list[RungOutcome]:
    """Run kernels and plugin under PyTorch's model; `below`: why not."""
    from innerq_export.parity.model_rung import BATCH, NAME, TOKENS, model_outcomes
    from innerq_export.parity.ops.rungs import OpSetting
    from innerq_export.parity.text import token_streams

    if only and NAME not in only:
        return []
    large = sum(entry.bytes for entry in manifest.files.values()) > _SMALL_BYTES
    streams_BT = token_streams(folder, manifest.model.vocab, BATCH, TOKENS)
    setting = OpSetting(manifest.cache, manifest.model, manifest.dtype)
    return list(model_outcomes(model, setting, streams_BT, below or ("the model is large" if large else "")))


def _presets(folder: Path, manifest: Manifest, source: Checkpoint | Path | None, size: int) -> RungResult:
    from innerq_export.parity.presets import TOKENS, presets_result
    from innerq_export.parity.text import token_streams
    from innerq_export.parity.torch_model import TorchModel

    if not isinstance(source, Checkpoint) or size > _SMALL_BYTES:
        reason = "the model is large" if isinstance(source, Checkpoint) else "no Hugging Face checkpoint"
        return RungResult("presets", NOT_RUN, "", reason=reason, backend="reference")
    streams_BT = token_streams(folder, manifest.model.vocab, 1, TOKENS)
    return presets_result(TorchModel(source.folder, manifest.dtype), manifest.model, streams_BT[0])


def _report(
    ladder: Ladder, manifest: Manifest, source: Checkpoint | Path | None, cases: Sequence[Case]
) -> ParityReport:
    return ParityReport(
        engine=f"{manifest.source} in {ladder.runner.name} ({manifest.dtype}, {manifest.lowering})",
        against=_against(source),
        passed=False,
        rungs=(),
        finding=None,
        cases=tuple(case.name for case in cases),
        layers_db=ladder.layers_db,
        versions=versions_here(),
        seconds=0.0,
        notes=tuple(manifest.notes),
        kl_by_position=ladder.kl_by_position,
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
