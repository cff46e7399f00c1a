"""The rung 'model': kernels and plugin, on host and card, as the two ops of PyTorch's model, held to the reference.

What the engine's rungs hold ONNX Runtime to these backends are held to as well, over a few calls that reach every
boundary: caches bit for bit, attention, keys and values, logits, next tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from innerq_export.errors import UserError
from innerq_export.parity.accuracy import Tally
from innerq_export.parity.cases import Case, free_case, prompts_case
from innerq_export.parity.ladder import Ladder
from innerq_export.parity.ops import KernelOps, OpBackend, PluginOps
from innerq_export.parity.ops.base import lacks_head_dim
from innerq_export.parity.ops.plugin_host import HostDiedError
from innerq_export.parity.ops.rungs import OpSetting, RungOutcome
from innerq_export.parity.report import FAILED, NOT_RUN, PASSED, Finding, RungResult
from innerq_export.parity.rungs import AttentionRung, CacheRung, KeysValuesRung, LogitsRung, TokensRung
from innerq_export.parity.rungs.base import NO_CHECKPOINT
from innerq_export.parity.runners.ops import OpsRunner
from innerq_export.parity.torch_model import TorchModel
from innerq_export.spec import blocks_of

NAME = "model"
CASES = (
    prompts_case(40, 161, decode=1),
    Case("chunked and ragged", ((50, 7), (0, 121), (64, 1), (1, 0), (33, 32), (1, 1))),
    free_case(158, 4),
)
BATCH, TOKENS = 2, 200
"""What the cases take of the text."""
_HOLDS = "PyTorch's model on this backend: caches bit for bit; attention, keys, values, logits, tokens as for an engine"


def model_outcomes(
    model: TorchModel | None, setting: OpSetting, streams_BT: Tensor, otherwise: str = ""
) -> Iterator[RungOutcome]:
    """Yield the outcome of every backend, until one finds something; `otherwise`: why none can be run at all."""
    plugin = PluginOps()
    failed = ""
    try:
        for backend in (KernelOps("host"), KernelOps("cuda"), plugin):
            lacks = failed or otherwise or (NO_CHECKPOINT if model is None else "")
            outcome = model_outcome(model, backend, setting, streams_BT, lacks)
            failed = failed or ("a rung below it failed" if outcome.finding else "")
            yield outcome
    finally:
        plugin.close()


def model_outcome(
    model: TorchModel | None, backend: OpBackend, setting: OpSetting, streams_BT: Tensor, lacks: str = ""
) -> RungOutcome:
    """Climb with one backend; `lacks`: why it cannot be run."""
    cases = [case for case in (case.within(setting.shape.max_positions) for case in CASES) if case]
    lacks = lacks or backend.lacks(setting.config, setting.dtype)
    lacks = (
        lacks or lacks_head_dim(backend, setting.shape.head_dim) or ("" if cases else "the model's context is short")
    )
    if lacks or model is None:
        return RungOutcome(RungResult(NAME, NOT_RUN, _HOLDS, reason=lacks, backend=backend.name))
    layers = (setting.shape.layers, setting.dtype)
    rungs = (CacheRung(), AttentionRung(*layers), KeysValuesRung(*layers), LogitsRung(*layers), TokensRung(*layers))
    room = max(1, *(blocks_of(setting.config, max(case.totals)) for case in cases))
    with OpsRunner(model, backend, setting.config, setting.shape, setting.dtype, room) as runner:
        ladder = Ladder(setting.config, setting.shape, setting.dtype, runner, model, rungs)
        finding = _climb(ladder, cases, streams_BT)
    figures = {"attention, worst dB": rungs[1].tally.worst(), "logits, worst dB": rungs[3].tally.worst()}
    calls = sum(len(case.calls) for case in cases)
    result = RungResult(NAME, FAILED if finding else PASSED, _HOLDS, calls, figures, backend=backend.name)
    return RungOutcome(result, finding, Tally.of(rung.tally for rung in rungs))


def _climb(ladder: Ladder, cases: list[Case], streams_BT: Tensor) -> Finding | None:
    """Return what is found first; a backend that raises or dies is found too."""
    name = ladder.runner.name
    for case in cases:
        try:
            ladder.climb(case, streams_BT, lambda: None)
        except (UserError, HostDiedError, RuntimeError, AssertionError) as error:
            got = (str(error) or type(error).__name__).splitlines()[0]
            what, advice = f"{name} under PyTorch's model: a call failed", "rung 'op' runs it alone on generated inputs"
            return Finding(NAME, what, expected="outputs", got=got, advice=advice, case=case.name, call=0)
        if ladder.finding:
            what = f"{name} under PyTorch's model, rung '{ladder.finding.rung}': {ladder.finding.what}"
            return dataclasses.replace(ladder.finding, rung=NAME, what=what)
    return None
