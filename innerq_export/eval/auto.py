"""Bits where they matter: what each layer's keys and values cost at 2, 3 and 4 bits, and the best choice for a budget.

Costs are measured one part of one layer at a time, everything else in full precision, and taken to add up; the choice
is the exact optimum of that sum (dynamic programming over the parts). What the whole then really costs is measured too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from innerq_export.errors import ConfigError
from innerq_export.eval.measure import Tick, text_figures
from innerq_export.eval.model import Decoder
from innerq_export.eval.plans import Plan, Sizes, keys_only, values_only
from innerq_export.reference.innerq_scheme import innerq_scheme
from innerq_export.spec import CacheConfig, bits_per_value

CHOICES = (2, 3, 4)
PARTS = ("keys", "values")
MODE = "symmetric_full"
_OVERHEAD = bits_per_value(0, MODE)


@dataclass(frozen=True)
class Sensitivity:
    """Mean KL in nats when only `part` of `layer` is quantised, to `bits`."""

    layer: int
    part: str
    bits: int
    kl: float


@dataclass(frozen=True)
class Allocation:
    """Code bits (keys, values) of every layer, mean bits per value with scales, and the KL that the sum predicts."""

    layers: tuple[tuple[int, int], ...]
    bits: float
    predicted_kl: float

    @property
    def configs(self) -> list[CacheConfig]:
        """The cache configuration of each layer, as InnerQCache takes them."""
        return [CacheConfig(key_bits=keys, value_bits=values) for keys, values in self.layers]

    def plan(self, name: str) -> Plan:
        """Return the allocation as a plan."""
        what = " ".join(f"{keys}/{values}" for keys, values in self.layers)
        return Plan(name, "auto", tuple(innerq_scheme(config, name) for config in self.configs), what)

    def to_dict(self) -> dict[str, Any]:
        """Return the allocation as JSON values, `configs` among them."""
        return {**dataclasses.asdict(self), "configs": [config.to_dict() for config in self.configs]}


def sensitivities(decoder: Decoder, sizes: Sizes, ids_BT: Tensor, prompt: int, tick: Tick) -> list[Sensitivity]:
    """Return what every part of every layer costs at every choice of bits, on these windows."""
    plans = {
        (layer, part, bits): _alone(sizes, layer, part, bits)
        for layer in range(sizes.layers)
        for part in PARTS
        for bits in CHOICES
    }
    measured = text_figures(decoder, list(plans.values()), ids_BT, prompt, tick)
    return [Sensitivity(*place, figures.kl_mean) for place, (_, figures) in zip(plans, measured, strict=True)]


def check_budget(budget: float) -> None:
    """Raise ConfigError for bits per value that no choice can have."""
    lowest, highest = CHOICES[0] + _OVERHEAD, CHOICES[-1] + _OVERHEAD
    if not lowest <= budget <= highest:
        raise ConfigError(
            f"budget of {budget} bits per value", expected=f"from {lowest} to {highest}", got=budget, fix="change it"
        )


def allocate(table: Sequence[Sensitivity], budget: float) -> Allocation:
    """Return the choice of least summed KL with at most `budget` bits per value. ConfigError outside 2.5 to 4.5."""
    check_budget(budget)
    places = sorted({(entry.layer, entry.part) for entry in table})
    cost = {(entry.layer, entry.part, entry.bits): entry.kl for entry in table}
    room = int((budget - _OVERHEAD) * len(places) + 1e-9)
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}
    for place in places:
        best = _extended(best, {bits: cost[(*place, bits)] for bits in CHOICES})
    predicted, chosen = min((kl, bits) for spent, (kl, bits) in best.items() if spent <= room)
    layers = tuple(zip(chosen[::2], chosen[1::2], strict=True))
    return Allocation(layers, sum(chosen) / len(chosen) + _OVERHEAD, predicted)


def _extended(
    best: dict[int, tuple[float, tuple[int, ...]]], cost: dict[int, float]
) -> dict[int, tuple[float, tuple[int, ...]]]:
    """Return, for each sum of bits, the least KL and its choices after one more part."""
    longer: dict[int, tuple[float, tuple[int, ...]]] = {}
    for spent, (kl, chosen) in best.items():
        for bits, more in cost.items():
            candidate = (kl + more, (*chosen, bits))
            longer[spent + bits] = min(longer.get(spent + bits, candidate), candidate)
    return longer


def _alone(sizes: Sizes, layer: int, part: str, bits: int) -> Plan:
    name = f"layer {layer} {part} {bits} bits"
    scheme = innerq_scheme(CacheConfig(key_bits=bits, value_bits=bits), name)
    one = keys_only(scheme) if part == "keys" else values_only(scheme)
    return Plan(name, "sensitivity", tuple(one if i == layer else None for i in range(sizes.layers)))
