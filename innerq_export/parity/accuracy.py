"""Comparisons in Polygraphy's types: its results where it has them, ours where it lacks them (worst row, KL).

`Tally` collects the results of a rung, the worst of each case; `accuracy_results` makes AccuracyResults of tallies.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from polygraphy.comparator import (
    AccuracyResult,
    AccuracyResults,
    BaseCompareFunc,
    CompareResult,
    IterationResult,
    OutputCompareResult,
    SimpleThreshold,
    SnrResult,
    SnrThreshold,
    Threshold,
)
from polygraphy.json import Decoder, Encoder

from innerq_export.parity.metrics import decibels, kl_divergence

_DIFFERENCES = tuple(SimpleThreshold.metric_fields())


def signal(level_db: float, floor_db: float) -> SnrResult:
    """Return the result of a signal-to-noise ratio that must reach `floor_db`."""
    return SnrResult(level_db, thresholds=SnrThreshold(floor_db))


def equality(difference: float | None) -> OutputCompareResult:
    """Return the result of a comparison bit for bit: None for equal, else how far the first wrong number is off.

    Where bits differ that are no number's (the sign of a zero, a NaN) the difference counts as infinite.
    """
    size = 0.0 if difference is None else abs(difference) or math.inf
    size = math.inf if math.isnan(size) else size
    return OutputCompareResult(*[size] * len(_DIFFERENCES), thresholds=SimpleThreshold("max", 0.0, 0.0))


class KlThreshold(Threshold):
    """The largest KL divergence allowed, in nats."""

    METRIC_FIELDS = ("kl",)

    def __init__(self, threshold: float):
        self.threshold = threshold

    def passed(self, metric_values: Mapping[str, float]) -> bool:
        """Whether it is not exceeded; NaN is."""
        return metric_values["kl"] <= self.threshold

    def describe(self, metric_values: Mapping[str, float]) -> tuple[str, bool]:
        """Return a line and the verdict."""
        passed = self.passed(metric_values)
        word = "PASSED" if passed else "FAILED"
        return f"KL: {metric_values['kl']:.4g} nats (tolerance: {self.threshold:.4g} nats) | {word}", passed


class KlResult(CompareResult):
    """KL(softmax(first) || softmax(second)) of one output, the mean over its rows, in nats."""

    _THRESHOLD_CLASS = KlThreshold

    def __init__(self, kl: float, thresholds: KlThreshold | None = None):
        super().__init__(thresholds=thresholds)
        self.kl = kl


class WorstRowCompareFunc(BaseCompareFunc):
    """Signal-to-noise ratio as SnrCompareFunc has it, but of the worst row: the last axis of every output."""

    _RESULT_CLASS = SnrResult
    _SUMMARY_LABEL = "SNR of the worst row"

    def __init__(self, floor_db: float):
        self.floor_db = floor_db

    def __call__(self, iter_result0: IterationResult, iter_result1: IterationResult) -> OrderedDict[str, SnrResult]:
        """Compare the outputs that both have."""
        levels = {name: decibels(*pair).min().item() for name, pair in _pairs(iter_result0, iter_result1)}
        return OrderedDict((name, SnrResult(level, self.thresholds_for(name))) for name, level in levels.items())

    def thresholds_for(self, output_name: str) -> SnrThreshold:
        """Return the one threshold."""
        return SnrThreshold(self.floor_db)


class KlCompareFunc(BaseCompareFunc):
    """KL divergence of logits over their last axis, the mean of all rows."""

    _RESULT_CLASS = KlResult
    _SUMMARY_LABEL = "KL"

    def __init__(self, most: float):
        self.most = most

    def __call__(self, iter_result0: IterationResult, iter_result1: IterationResult) -> OrderedDict[str, KlResult]:
        """Compare the outputs that both have."""
        kls = {name: kl_divergence(*pair).mean().item() for name, pair in _pairs(iter_result0, iter_result1)}
        return OrderedDict((name, KlResult(kl, self.thresholds_for(name))) for name, kl in kls.items())

    def thresholds_for(self, output_name: str) -> KlThreshold:
        """Return the one threshold."""
        return KlThreshold(self.most)


class Tally:
    """The results of one rung: of every output the worst of each case."""

    def __init__(self) -> None:
        self.cases: OrderedDict[str, OrderedDict[str, CompareResult]] = OrderedDict()

    @classmethod
    def of(cls, tallies: Iterable[Tally]) -> Tally:
        """Return one tally of all; names of their outputs differ."""
        joined = cls()
        for tally in tallies:
            for case, outputs in tally.cases.items():
                joined.cases.setdefault(case, OrderedDict()).update(outputs)
        return joined

    def add(self, case: str, output: str, result: CompareResult) -> bool:
        """Keep `result` if it is worse than what is kept; return its verdict."""
        kept = self.cases.setdefault(case, OrderedDict())
        if output not in kept or _badness(result) > _badness(kept[output]):
            kept[output] = result
        return bool(result)

    def worst(self) -> float:
        """Return the metric of the worst result; infinite dB where there is none."""
        results = [result for outputs in self.cases.values() for result in outputs.values()]
        return _metric(max(results, key=_badness)) if results else math.inf


def accuracy_results(compared: Sequence[tuple[str, Tally]]) -> AccuracyResults:
    """Return one AccuracyResult for each kind of metric; `compared` are tallies and what they hold to its reference.

    An iteration is a case. Tallies of the same name have outputs of their own. `polygraphy check accuracy` reads what
    the `save` of the result writes.
    """
    kinds: dict[tuple[str, ...], dict[tuple[str, str], OrderedDict[str, OrderedDict[str, CompareResult]]]] = {}
    for name, tally in compared:
        for case, outputs in tally.cases.items():
            for output, result in outputs.items():
                pairs = kinds.setdefault(tuple(result.metric_fields()), {})
                cases = pairs.setdefault((name, "reference"), OrderedDict())
                cases.setdefault(case, OrderedDict())[output] = result
    return AccuracyResults(
        [AccuracyResult({pair: list(cases.values()) for pair, cases in pairs.items()}) for pairs in kinds.values()]
    )


def _metric(result: CompareResult) -> float:
    return next(iter(result.metric_values().values()))


def _badness(result: CompareResult) -> float:
    value = -_metric(result) if isinstance(result, SnrResult) else _metric(result)
    return math.inf if math.isnan(value) else value


def _pairs(first: IterationResult, second: IterationResult) -> list[tuple[str, tuple[torch.Tensor, torch.Tensor]]]:
    names = [name for name in first if name in second]
    return [(name, (torch.as_tensor(first[name]), torch.as_tensor(second[name]))) for name in names]


@Encoder.register(KlThreshold)
def _threshold_to_json(threshold: KlThreshold) -> dict[str, Any]:
    return {"threshold": threshold.threshold}


@Decoder.register(KlThreshold)
def _threshold_from_json(fields: Mapping[str, Any]) -> KlThreshold:
    return KlThreshold(fields["threshold"])


@Encoder.register(KlResult)
def _result_to_json(result: KlResult) -> dict[str, Any]:
    return {"kl": result.kl, "thresholds": result.thresholds}


@Decoder.register(KlResult)
def _result_from_json(fields: Mapping[str, Any]) -> KlResult:
    return KlResult(fields["kl"], thresholds=fields["thresholds"])
