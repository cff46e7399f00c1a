"""Climbing: one case after the other, every rung on every call, until the first thing that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from innerq_export.artifacts import Checkpoint, ModelShape
from innerq_export.engine.manifest import Manifest
from innerq_export.parity.accuracy import Tally
from innerq_export.parity.call import Call
from innerq_export.parity.cases import Case, is_large
from innerq_export.parity.onnx_source import OnnxSource
from innerq_export.parity.report import FAILED, NOT_RUN, PASSED, REPORTED, Finding, RungResult
from innerq_export.parity.rungs import (
    AttentionRung,
    CacheRung,
    FullPrecisionRung,
    KeysValuesRung,
    LogitsRung,
    Rung,
    ShippedRung,
    TokensRung,
    UnquantisedRung,
)
from innerq_export.parity.runners.base import EngineRunner
from innerq_export.parity.streamed_model import StreamedTorchModel
from innerq_export.parity.torch_model import TorchModel
from innerq_export.reference import Cache, empty_cache
from innerq_export.spec import CacheConfig, blocks_of


@dataclass(frozen=True)
class Recorded:
    """One call for --save: its tokens, its logits, which sequences got tokens and which hold a block by now.

    `last_B`: the newest token of each sequence, counted from 0.
    """

    case: str
    index: int
    ids_BS: Tensor
    logits_BV: Tensor
    active: tuple[int, ...]
    quantised: tuple[bool, ...]
    last_B: tuple[int, ...]


def open_ladder(
    runner: EngineRunner,
    manifest: Manifest,
    source: Checkpoint | Path | None,
    streams_BT: Tensor,
    *,
    only: Collection[str] = (),
) -> Ladder:
    """Return the ladder for an engine made from `source`: a checkpoint, a plain decoder .onnx, or nothing known.

    `streams_BT` hold one token more than any case takes: the last is only ever the one that follows.
    """
    dtype, shape = manifest.dtype, manifest.model
    model = _torch_model(source, manifest) if isinstance(source, Checkpoint) else None
    plain = OnnxSource(source) if isinstance(source, Path) else model
    logits_BTV = torch.stack([plain.unquantised(ids[:-1]) for ids in streams_BT]) if plain else None
    rungs: tuple[Rung, ...] = (
        CacheRung(),
        AttentionRung(shape.layers, dtype),
        KeysValuesRung(shape.layers, dtype),
        LogitsRung(shape.layers, dtype),
        TokensRung(shape.layers, dtype),
        FullPrecisionRung(shape.layers, dtype, logits_BTV),
        ShippedRung(),
        UnquantisedRung(logits_BTV, streams_BT),
    )
    chosen = tuple(rung for rung in rungs if not only or rung.name in only)
    return Ladder(manifest.cache, shape, dtype, runner, model, chosen)


@dataclass
class Ladder:
    """Holds a runner to the rungs. For each rung `calls` counts what it has passed, `lacks` says what it misses.

    `recorded`: every call on the text; `failed_call`: where the finding was made.
    """

    config: CacheConfig
    shape: ModelShape
    dtype: str
    runner: EngineRunner
    model: TorchModel | None
    rungs: Sequence[Rung]

    def __post_init__(self) -> None:
        self.calls = {rung.name: 0 for rung in self.rungs}
        self.lacks: dict[str, str] = {}
        self.finding: Finding | None = None
        self.failed_call: Call | None = None
        self.recorded: list[Recorded] = []

    def climb(self, case: Case, streams_BT: Tensor, tick: Callable[[], None]) -> bool:
        """Run one case on the first tokens of each stream; `tick` after each call. Return whether nothing was found."""
        self.runner.start(case.batch)
        caches: Sequence[Cache] = [self._empty(case)] * self.shape.layers
        past_B = torch.zeros(case.batch, dtype=torch.int32)
        chosen_B1: Tensor | None = None
        for index, new in enumerate(case.calls):
            new_B = torch.tensor(new, dtype=torch.int32)
            ids_BS = _rows(streams_BT, past_B, new_B) if chosen_B1 is None else chosen_B1
            seen = self.runner.call(ids_BS, new_B)
            call = Call(case.name, index, ids_BS, past_B, new_B, seen, caches, self.model, chosen_B1 is None)
            if index + 1 < len(case.calls) and case.is_free(index + 1):
                chosen_B1 = seen.logits_BV.argmax(-1, keepdim=True)
            if not self._check(call):
                self.failed_call = call
                return False
            if call.teacher_forced and not case.free:
                quantised = tuple(call.after[0].blocks_held(b) > 0 for b in range(case.batch))
                last = tuple((past_B + new_B - 1).tolist())
                active = tuple(call.active)
                self.recorded.append(Recorded(case.name, index, ids_BS, seen.logits_BV, active, quantised, last))
            caches, past_B = call.after, past_B + new_B
            tick()
        return True

    @property
    def kl_by_position(self) -> tuple[tuple[int, float], ...]:
        """Mean KL to the unquantised model at every token position."""
        return next((rung.kl_by_position for rung in self.rungs if isinstance(rung, UnquantisedRung)), ())

    @property
    def layers_db(self) -> tuple[float, ...]:
        """The worst attention output of each layer, in dB."""
        return tuple(next((rung.layers_db for rung in self.rungs if isinstance(rung, AttentionRung)), ()))

    @property
    def compared(self) -> list[tuple[str, Tally]]:
        """What every rung has compared, each with the name of the runner."""
        return [(self.runner.name, rung.tally) for rung in self.rungs]

    def results(self, otherwise: str = "a rung below it failed") -> tuple[RungResult, ...]:
        """Return what every rung has to say; `otherwise`: why one that lacks nothing has not run."""
        return tuple(self._result(rung, otherwise) for rung in self.rungs)

    def _check(self, call: Call) -> bool:
        for rung in self.rungs:
            self.lacks[rung.name] = rung.lacks(call)
            if self.lacks[rung.name]:
                continue
            self.finding = rung.check(call)
            if self.finding:
                return False
            self.calls[rung.name] += 1
        return True

    def _result(self, rung: Rung, otherwise: str) -> RungResult:
        failed = self.finding is not None and self.finding.rung == rung.name
        if not failed and self.calls[rung.name] == 0:
            reason = self.lacks.get(rung.name) or otherwise
            return RungResult(rung.name, NOT_RUN, rung.tolerance, reason=reason)
        status = FAILED if failed else PASSED if rung.verdict else REPORTED
        return RungResult(rung.name, status, rung.tolerance, self.calls[rung.name], rung.figures())

    def _empty(self, case: Case) -> Cache:
        blocks = max(1, *(blocks_of(self.config, total) for total in case.totals))
        sizes = (case.batch, self.shape.kv_heads, self.shape.head_dim, blocks)
        return empty_cache(self.config, *sizes, dtype=getattr(torch, self.dtype))


def _torch_model(source: Checkpoint, manifest: Manifest) -> TorchModel:
    if is_large(manifest):
        return StreamedTorchModel(source, manifest.dtype)
    return TorchModel(source.folder, manifest.dtype, source.key_norm)


def _rows(streams_BT: Tensor, past_B: Tensor, new_B: Tensor) -> Tensor:
    """Return the ids [B, S] of the next tokens of each stream, padded with token 0."""
    ids_BS = torch.zeros(len(past_B), max(1, int(new_B.max())), dtype=torch.int64)
    for b, (past, new) in enumerate(zip(past_B.tolist(), new_B.tolist(), strict=True)):
        ids_BS[b, :new] = streams_BT[b, past : past + new]
    return ids_BS
