"""`--save` and `--against`: the logits of every call, kept on one machine and compared on another.

The file is Polygraphy's RunResults: `polygraphy inspect data FILE` and `polygraphy run --load-outputs FILE` read it.
Nothing is fed across here, so codes may turn by a step where keys differ in the last place. Hence two bars: dB before
the first block, mean KL after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.errors import UserError
from innerq_export.parity.report import FAILED, PASSED, Finding, ParityReport, RungResult
from innerq_export.parity.rungs import UnquantisedRung
from innerq_export.parity.tolerances import TWO_SIDES_DB, most_kl

if TYPE_CHECKING:
    from innerq_export.parity.check import Checked
    from innerq_export.parity.ladder import Recorded

_RUNG = "other machine"


@dataclass(frozen=True)
class Recording:
    """What --save kept: the engine's name, and per call its tokens and logits."""

    engine: str
    calls: tuple[dict[str, Any], ...]


def save(checked: Checked, path: Path) -> None:
    """Write the calls on the text; those of free runs differ by themselves."""
    from polygraphy.comparator import IterationResult, RunResults

    results = RunResults()
    iterations = [
        IterationResult({"ids": call.ids_BS.numpy(), "logits": call.logits_BV.numpy()}, runtime=0.0)
        for call in checked.recorded
    ]
    results.append((checked.report.engine, iterations))
    with quiet():
        results.save(str(path))


def save_accuracy(checked: Checked, path: Path) -> None:
    """Write what was compared as AccuracyResults: `polygraphy check accuracy` holds them to other thresholds."""
    with quiet():
        checked.accuracy.save(str(path))


def load(path: Path) -> Recording:
    """Return what `save` wrote. UserError for anything else."""
    from polygraphy.comparator import RunResults

    try:
        with quiet():
            results = RunResults.load(str(path))
        ((engine, iterations),) = results.items()
        return Recording(engine, tuple({name: call[name] for name in ("ids", "logits")} for call in iterations))
    except Exception as error:
        raise UserError(f"{path} is no recording of parity", got=error, fix="make it with --save FILE") from error


def compared(checked: Checked, other: Recording) -> ParityReport:
    """Return the report with the rung "other machine". UserError for a recording of other calls or another dtype."""
    report, here = checked.report, checked.recorded
    if report.finding:
        return report
    _check_comparable(report.engine, here, other)
    floor, most = checked.floor_db - TWO_SIDES_DB, most_kl(_quantisation_kl(report))
    figures, finding = _compare(here, other, floor, most)
    status = FAILED if finding else PASSED
    tolerance = f"before the first block {floor:.1f} dB, after it a mean KL of {most:.2g}"
    rung = RungResult(_RUNG, status, tolerance, len(here), figures, backend=other.engine)
    return report.replace(rungs=(*report.rungs, rung), finding=finding, passed=finding is None)


def _check_comparable(engine: str, here: list[Recorded], other: Recording) -> None:
    if len(here) != len(other.calls) or any(
        call.ids_BS.shape != kept["ids"].shape or (call.ids_BS.numpy() != kept["ids"]).any()
        for call, kept in zip(here, other.calls, strict=True)
    ):
        raise UserError(
            "the recording is of other calls",
            expected=f"the {len(here)} calls of this run",
            got=f"{len(other.calls)} calls of {other.engine}",
            fix="save and compare with the same model, the same innerq-export, and --full on both or on neither",
        )
    if _form(other.engine) != _form(engine):
        raise UserError(
            "the recording is of an engine of another type",
            expected=engine,
            got=other.engine,
            fix="build the engine with the same --dtype on both machines",
        )


def _form(engine: str) -> str:
    """Return dtype and lowering, which stand in brackets behind an engine's name."""
    return "".join(engine.rpartition("(")[1:]) if engine.endswith(")") else ""


def _quantisation_kl(report: ParityReport) -> float | None:
    found = (rung.figures.get("mean KL") for rung in report.rungs if rung.name == UnquantisedRung.name)
    return next(found, None)


@dataclass(frozen=True)
class _Row:
    """The logits of one sequence after one call."""

    call: Recorded
    sequence: int
    kept: dict[str, Any]

    @property
    def pair(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What was saved, and what is said here."""
        return {"logits": self.kept["logits"][self.sequence]}, {"logits": self.call.logits_BV[self.sequence].numpy()}


def _compare(
    here: list[Recorded], other: Recording, floor: float, most: float
) -> tuple[dict[str, float], Finding | None]:
    from innerq_export.parity.accuracy import KlCompareFunc, WorstRowCompareFunc

    rows = [_Row(call, b, kept) for call, kept in zip(here, other.calls, strict=True) for b in call.active]
    plain = [row for row in rows if not row.call.quantised[row.sequence]]
    blocks = [row for row in rows if row.call.quantised[row.sequence]]
    levels = [result.snr for result in _accuracy(plain, WorstRowCompareFunc(floor))]
    kls = [result.kl for result in _accuracy(blocks, KlCompareFunc(most))]
    mean = sum(kls) / max(1, len(kls))
    figures = {"worst dB": min(levels, default=float("inf")), "mean KL": mean, "worst KL": max(kls, default=0.0)}
    for row, level in zip(plain, levels, strict=True):
        if not level >= floor:
            what = "logits differ before anything is quantised"
            return figures, _finding(row, what, f"at least {floor:.1f} dB", f"{level:.1f} dB")
    if not mean <= most:
        first, kl = next(pair for pair in zip(blocks, kls, strict=True) if not pair[1] <= most)
        what = "logits drift apart once blocks are held; this token is the first beyond what the mean may be"
        return figures, _finding(first, what, f"mean KL of {most:.2g}", f"{mean:.4g}, here {kl:.4g}")
    return figures, None


def _accuracy(rows: list[_Row], compare_func: Any) -> list[Any]:
    """Return what Polygraphy's comparator says of every row."""
    from polygraphy.comparator import Comparator, IterationResult, RunResults

    results = RunResults()
    for side, name in enumerate(("saved", "here")):
        results.append((name, [IterationResult(row.pair[side], runtime=0.0, runner_name=name) for row in rows]))
    with quiet():
        (accuracy,) = Comparator.compare_accuracy(results, compare_func=compare_func)
    return [iteration["logits"] for iterations in accuracy.values() for iteration in iterations]


def _finding(row: _Row, what: str, expected: str, got: str) -> Finding:
    return Finding(
        rung=_RUNG,
        what=f"the saved {what}",
        expected=expected,
        got=got,
        advice="run parity without --against on both machines: the one that fails there is wrong",
        case=row.call.case,
        call=row.call.index,
        sequence=row.sequence,
        token=row.call.last_B[row.sequence],
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Polygraphy's log off stdout, which carries results."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
