"""Every fault put to every rung alone: which rungs find it, as docs/parity.md tables it, and where it means nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from innerq_export.artifacts import ModelShape
from innerq_export.parity import presets, recording
from innerq_export.parity.cases import prompts_case
from innerq_export.parity.check import Checked
from innerq_export.parity.ladder import Ladder
from innerq_export.parity.metrics import kl_divergence
from innerq_export.parity.model_rung import TOKENS, model_outcome
from innerq_export.parity.ops.rungs import OpSetting, op_rung, packing_rung
from innerq_export.parity.plans import hold_plan
from innerq_export.parity.report import REPORTED, ParityReport, RungResult
from innerq_export.parity.rung_names import RUNG_NAMES
from innerq_export.parity.rungs import (
    AttentionRung,
    CacheRung,
    FullPrecisionRung,
    KeysValuesRung,
    LogitsRung,
    ShippedRung,
    TokensRung,
    UnquantisedRung,
)
from innerq_export.parity.runners import EmulatedRunner
from innerq_export.parity.text import token_streams
from innerq_export.parity.tolerances import model_floor_db
from innerq_export.parity.torch_model import TorchModel
from innerq_export.reference import append
from innerq_export.spec import CacheConfig
from tests.parity.mutations import MutatedOps, Mutation
from tests.parity.stand_ins import EveryRung, FaultyPacking, PlanSession, TwoSessions

CONFIG = CacheConfig(sink=4, recent=12)
SHAPE = ModelShape(layers=2, heads=4, kv_heads=2, head_dim=64, vocab=264, max_positions=512)
SETTING = OpSetting(CONFIG, SHAPE, "float16")
CASES = (prompts_case(8, 40, decode=6), prompts_case(102, 61, decode=3))
"""Before, across and after the first block, which 48 tokens make."""
_UP_TO_ENGINE = RUNG_NAMES[: RUNG_NAMES.index("as shipped") + 1]
COLUMNS = (*_UP_TO_ENGINE, "other machine", "engine", "unquantised", "presets")
CAUGHT, UNSEEN, GROWS, MEANINGLESS = "caught", "no", "grows", "n/a"
GROWN = 1.2
"""A figure that is only reported 'grows' when it is this many times that of the sound engine."""
_NOT_IN_A_RECORD = ("lambda", "window", "flushed", "GQA", "split")
_ONLY_WITH_BLOCKS = ("code", "scales", "lambda")


class Matrix:
    """The rungs over one model; `row` puts a fault to all of them."""

    def __init__(self, model: TorchModel, folder: Path):
        self._model = model
        longest = max(max(case.totals) for case in CASES)
        self._streams_BT = token_streams(folder, SHAPE.vocab, 2, max(longest + 1, TOKENS))
        self._plain_BTV = torch.stack([model.unquantised(ids[:-1]) for ids in self._streams_BT])
        self._sound = self._climb(Mutation("none"))
        self._preset_kl = self._presets(Mutation("none"))

    def row(self, mutation: Mutation) -> dict[str, str]:
        """Return the cell of every column but the plugin's, whose fault lies in the plugin itself."""
        rung, ladder = self._climb(mutation)
        found = set(rung.found)
        found |= {"packing"} if packing_rung(FaultyPacking(mutation), SETTING).run().finding else set()
        found |= {"op"} if op_rung(MutatedOps(mutation), SETTING).run().finding else set()
        found |= {"model"} if self._model_rung(mutation) else set()
        found |= {"as shipped"} if self._shipped(mutation) else set()
        found |= {"other machine"} if self._other_machine(rung, ladder) else set()
        found |= {"engine"} if self._plan(mutation) else set()
        cells = {name: CAUGHT if name in found else UNSEEN for name in COLUMNS if name != "plugin"}
        cells["unquantised"] = _grown(_mean_kl(rung), _mean_kl(self._sound[0]))
        cells["presets"] = _grown(self._presets(mutation), self._preset_kl)
        return cells | {name: MEANINGLESS for name in meaningless(mutation.name)}

    def _model_rung(self, mutation: Mutation) -> bool:
        return model_outcome(self._model, MutatedOps(mutation), SETTING, self._streams_BT).finding is not None

    def _runner(self, mutation: Mutation) -> EmulatedRunner:
        def damage(layer: int, cache):
            return mutation.cache(cache)

        return EmulatedRunner(self._model, CONFIG, SHAPE, "float16", damage, mutation.attention)

    def _climb(self, mutation: Mutation) -> tuple[EveryRung, Ladder]:
        layers = (2, "float16")
        rung = EveryRung(
            (
                CacheRung(),
                AttentionRung(*layers),
                KeysValuesRung(*layers),
                LogitsRung(*layers),
                TokensRung(*layers),
                FullPrecisionRung(*layers, self._plain_BTV),
                UnquantisedRung(self._plain_BTV, self._streams_BT),
            )
        )
        return rung, self._through(self._runner(mutation), rung)

    def _through(self, runner: EmulatedRunner, rung) -> Ladder:
        ladder = Ladder(CONFIG, SHAPE, "float16", runner, self._model, (rung,))
        with runner:
            for case in CASES:
                ladder.climb(case, self._streams_BT, lambda: None)
        return ladder

    def _shipped(self, mutation: Mutation) -> bool:
        sound = (self._model, CONFIG, SHAPE, "float16")
        rung = EveryRung((ShippedRung(),))
        self._through(TwoSessions(sound, self._runner(mutation)), rung)
        return bool(rung.found)

    def _other_machine(self, rung: EveryRung, ladder: Ladder) -> bool:
        """Hold what the faulty machine says to what the sound one has saved."""
        kept = [{"ids": call.ids_BS.numpy(), "logits": call.logits_BV.numpy()} for call in self._sound[1].recorded]
        cost = RungResult("unquantised", REPORTED, "", figures={"mean KL": _mean_kl(rung)})
        report = ParityReport("faulty", "sound", True, (cost,), None, (), (), {}, 0.0)
        checked = Checked(report, [], model_floor_db("float16", 2), recorded=ladder.recorded)
        return recording.compared(checked, recording.Recording("sound", tuple(kept))).finding is not None

    def _plan(self, mutation: Mutation) -> bool:
        sides = (PlanSession(self._runner(fault), SHAPE.max_positions) for fault in (Mutation("none"), mutation))
        manifest = SimpleNamespace(dtype="float16", model=SHAPE, cache=CONFIG)
        return hold_plan(*sides, "emulated", manifest, CASES, self._streams_BT)[1] is not None

    def _presets(self, mutation: Mutation) -> float:
        """Return the mean KL of the default preset with the fault in the reference, over 224 tokens."""
        ids_T = token_streams(Path(), SHAPE.vocab, 1, 224)[0]

        def spoiled(*states) -> object:
            return mutation.cache(append(*states))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(presets, "append", spoiled)
            patch.setattr(presets, "attend", mutation.attention)
            got_TV = presets.quantised_logits(self._model, SHAPE, CacheConfig(), ids_T)
        return kl_divergence(self._model.unquantised(ids_T), got_TV).mean().item()


def meaningless(fault: str) -> tuple[str, ...]:
    """Return the rungs at which there is nothing that the fault could change."""
    packing = any(word in fault for word in _NOT_IN_A_RECORD)
    full = any(word in fault for word in _ONLY_WITH_BLOCKS)
    return (*(("packing",) if packing else ()), *(("full precision",) if full else ()))


def _mean_kl(rung: EveryRung) -> float:
    return rung.rungs[-1].figures()["mean KL"]


def _grown(got: float, sound: float) -> str:
    return GROWS if got > GROWN * sound else UNSEEN
