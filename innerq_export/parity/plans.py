"""Other sessions of `innerq-export run` beside model.onnx in ONNX Runtime: NVIDIA's plans, torch on a card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.parity.cases import Case
from innerq_export.parity.metrics import decibels, top1_agrees
from innerq_export.parity.report import FAILED, NOT_RUN, PASSED, Finding, RungResult
from innerq_export.parity.tolerances import QUANTISED_DB, TWO_SIDES_DB, model_floor_db
from innerq_export.spec import CacheConfig, blocks_of

if TYPE_CHECKING:
    from innerq_export.engine.manifest import Manifest
    from innerq_export.runtime import Session

NAME = "engine"
_MOST_CALLS = 8


@dataclass(frozen=True)
class Compared:
    """Logits of one sequence after one call: how they agree, whether anything is quantised, and where that is."""

    level: float
    top1: bool
    quantised: bool
    case: str
    call: int
    sequence: int
    token: int


def plan_results(
    folder: Path, manifest: Manifest, cases: Sequence[Case], streams_BT: Tensor
) -> list[tuple[RungResult, Finding | None]]:
    """Return a result for every backend but ONNX Runtime: 'not run' with the reason where its plan cannot be run here.

    `streams_BT`: the tokens of the text, int64, as many sequences and tokens as the largest case.
    """
    backends = [name for name in manifest.backends if name != "onnxruntime"]
    return [_result(folder, manifest, backend, cases, streams_BT) for backend in backends]


def _result(
    folder: Path, manifest: Manifest, backend: str, cases: Sequence[Case], streams_BT: Tensor
) -> tuple[RungResult, Finding | None]:
    from innerq_export.runtime import OnnxRuntimeSession, open_session

    try:
        plan = open_session(folder, backend, allow_unready=True)
    except EnvironmentMismatchError as error:
        return RungResult(NAME, NOT_RUN, "", reason=f"{error.got}; expected {error.expected}", backend=backend), None
    native = OnnxRuntimeSession(folder, allow_unready=True)
    return hold_plan(native, plan, backend, manifest, cases, streams_BT)


def torch_result(
    folder: Path, manifest: Manifest, cases: Sequence[Case], streams_BT: Tensor
) -> tuple[RungResult, Finding | None]:
    """Return the result of `run --backend torch`: the checkpoint with the kernels, on a card only."""
    from innerq_export.runtime import OnnxRuntimeSession, open_session

    reason = "" if torch.cuda.is_available() else "no CUDA card"
    try:
        if not reason:
            session = open_session(folder, "torch", allow_unready=True)
    except UserError as error:
        reason = error.what
    if reason:
        return RungResult(NAME, NOT_RUN, "", reason=reason, backend="torch"), None
    native = OnnxRuntimeSession(folder, allow_unready=True)
    return hold_plan(native, session, "torch", manifest, cases, streams_BT)


def hold_plan(
    native: Session, plan: Session, backend: str, manifest: Manifest, cases: Sequence[Case], streams_BT: Tensor
) -> tuple[RungResult, Finding | None]:
    """Hold the plan's logits to those of `native`, model.onnx in ONNX Runtime, over short cases that fit the plan."""
    plain = model_floor_db(manifest.dtype, manifest.model.layers) - TWO_SIDES_DB
    seen = [one for case in _fitting(plan, cases) for one in _compare(native, plan, manifest.cache, case, streams_BT)]
    finding = next((_finding(one, plain, backend) for one in seen if not one.level >= _floor(one, plain)), None)
    result = RungResult(
        NAME,
        FAILED if finding else PASSED,
        f"logits to ONNX Runtime's: {plain:.1f} dB before the first block, {QUANTISED_DB:.0f} dB after it",
        calls=len({(one.case, one.call) for one in seen}),
        figures=_figures(seen),
        backend=backend,
    )
    return result, finding


def _fitting(plan: Session, cases: Sequence[Case]) -> Iterator[Case]:
    """Yield short cases of text that the plan's limits allow."""
    for case in cases:
        shortened = case.within(plan.limit)
        fits = plan.max_batch is None or case.batch <= plan.max_batch
        if shortened and fits and not case.free and len(case.calls) <= _MOST_CALLS:
            yield shortened


def _compare(native: Session, plan: Session, cache: CacheConfig, case: Case, streams_BT: Tensor) -> Iterator[Compared]:
    for session in (native, plan):
        session.reset(case.batch)
    for index, call in enumerate(case.calls):
        past_B, new_B = native.length_B, np.array(call, np.int32)
        ids_BS = np.zeros((case.batch, max(1, *call)), np.int64)
        for b, new in enumerate(call):
            ids_BS[b, :new] = streams_BT[b, past_B[b] : past_B[b] + new]
        expected_BV, got_BV = (torch.from_numpy(session.step(ids_BS, new_B)) for session in (native, plan))
        for b in np.flatnonzero(new_B).tolist():
            held = int(past_B[b] + new_B[b])
            yield Compared(
                level=decibels(expected_BV[b], got_BV[b]).item(),
                top1=bool(top1_agrees(expected_BV[b], got_BV[b])),
                quantised=blocks_of(cache, held) > 0,
                case=case.name,
                call=index,
                sequence=b,
                token=held - 1,
            )


def _floor(one: Compared, plain: float) -> float:
    return QUANTISED_DB if one.quantised else plain


def _figures(seen: Sequence[Compared]) -> dict[str, float]:
    levels = {
        f"worst dB {word}": min((one.level for one in seen if one.quantised == quantised), default=float("inf"))
        for word, quantised in (("before the first block", False), ("after it", True))
    }
    return levels | {"top-1": sum(one.top1 for one in seen) / max(1, len(seen))}


def _finding(one: Compared, plain: float, backend: str) -> Finding:
    mend = "pytest -m gpu tests/integrations" if backend == "torch" else "build the engine again on this machine"
    return Finding(
        rung=NAME,
        what=f"{backend}: logits are not those of model.onnx",
        expected=f"at least {_floor(one, plain):.1f} dB",
        got=f"{one.level:.1f} dB",
        advice=f"the ONNX file is right: `innerq-export doctor FOLDER`, then {mend}",
        case=one.case,
        call=one.call,
        sequence=one.sequence,
        token=one.token,
    )
