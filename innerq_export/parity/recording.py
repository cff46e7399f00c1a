"""`--save` and `--against`: the logits of every call, kept on one machine and compared on another.

The file is Polygraphy's RunResults: `polygraphy inspect data FILE` and `polygraphy run --load-outputs FILE` read it.
Nothing is fed across here, so codes may turn by a step where keys differ in the last place. Measured on the demo model,
ONNX Runtime in fp16 against the reference in fp32, each with its own cache: before the first block 50 dB at worst,
after it 24 dB and a mean KL of 0.002 (quantisation itself: 0.14). Hence two bars: dB before, mean KL after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.errors import UserError
from innerq_export.parity.report import FAILED, PASSED, Finding, ParityReport, RungResult

if TYPE_CHECKING:
    from innerq_export.parity.check import Checked
    from innerq_export.parity.ladder import Recorded

MEAN_KL = 0.01
BOTH_ROUND_DB = 3.0
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
    """Return the report with the rung 'other machine'. UserError if the other recording is of other calls."""
    here = checked.recorded
    if checked.report.finding:
        return checked.report
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
    figures, finding = _compare(here, other, checked.floor_db - BOTH_ROUND_DB)
    status = FAILED if finding else PASSED
    tolerance = f"before the first block {checked.floor_db - BOTH_ROUND_DB:.1f} dB, after it a mean KL of {MEAN_KL}"
    rung = RungResult(_RUNG, status, tolerance, len(here), figures, backend=other.engine)
    report = checked.report
    return report.replace(rungs=(*report.rungs, rung), finding=finding, passed=finding is None)


def _compare(here: list[Recorded], other: Recording, floor: float) -> tuple[dict[str, float], Finding | None]:
    import torch

    from innerq_export.parity.metrics import decibels, kl_divergence

    worst, kls, finding = float("inf"), [], None
    for call, kept in zip(here, other.calls, strict=True):
        expected_BV = torch.from_numpy(kept["logits"])
        level_B, kl_B = decibels(expected_BV, call.logits_BV), kl_divergence(expected_BV, call.logits_BV)
        for b in call.active:
            if call.quantised[b]:
                kls.append(kl_B[b].item())
                continue
            worst = min(worst, level_B[b].item())
            if level_B[b] < floor and finding is None:
                got = f"{level_B[b].item():.1f} dB"
                finding = _finding(call, b, "logits differ before anything is quantised", f"{floor:.1f} dB", got)
    mean = sum(kls) / max(1, len(kls))
    if finding is None and not mean <= MEAN_KL:
        finding = _finding(here[-1], None, "logits drift apart", f"mean KL of {MEAN_KL}", f"{mean:.4g}")
    return {"worst dB": worst, "mean KL": mean, "worst KL": max(kls, default=0.0)}, finding


def _finding(call: Recorded, sequence: int | None, what: str, expected: str, got: str) -> Finding:
    return Finding(
        rung=_RUNG,
        what=f"the saved {what}",
        expected=expected,
        got=got,
        advice="run parity without --against on both machines: the one that fails there is wrong",
        case=call.case,
        call=call.index,
        sequence=sequence,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Polygraphy's log off stdout, which carries results."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        yield
