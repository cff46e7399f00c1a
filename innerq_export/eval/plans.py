"""What is tried: each plan names a scheme for every layer. Presets, baselines, and sweeps of one field at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from innerq_export.errors import ConfigError, nearest
from innerq_export.reference.baselines import baselines
from innerq_export.reference.group_sizes import grouped_scheme
from innerq_export.reference.innerq_scheme import innerq_scheme
from innerq_export.reference.least_squares import quantise_least_squares
from innerq_export.reference.scheme import FULL_BITS, Hold, Scheme
from innerq_export.spec import DEFAULT_PRESET, MODES, PRESETS, CacheConfig, preset

GROUPS = ("presets", "baselines", "bits", "modes", "sink", "recent", "group", "key-norm", "scales", "parts")
SINKS, RECENTS, GROUP_SIZES = (0, 4, 16, 32, 64), (0, 32, 96, 224), (16, 32, 64, 128)
FOREVER = 1 << 40


@dataclass(frozen=True)
class Plan:
    """A named choice for every layer; None is full precision. `group` is the comparison it belongs to."""

    name: str
    group: str
    schemes: tuple[Scheme | None, ...]
    what: str = ""

    @property
    def bits(self) -> float:
        """Bits per quantised value, mean over layers."""
        return sum(scheme.bits if scheme else FULL_BITS for scheme in self.schemes) / len(self.schemes)

    def bits_at(self, tokens: int) -> float:
        """Return bits per value of a sequence of `tokens` tokens, those in full precision at 16 bits."""
        return sum(scheme.bits_at(tokens) if scheme else FULL_BITS for scheme in self.schemes) / len(self.schemes)


@dataclass(frozen=True)
class Sizes:
    """What plans need to know of a model: layers, channels of a head, and calibrated lambdas if there are any."""

    layers: int
    head_dim: int
    key_norms: tuple[Tensor, ...] = ()

    def uniform(self, scheme: Scheme | None, name: str, group: str, what: str = "") -> Plan:
        """Return the plan that does the same in every layer."""
        return Plan(name, group, (scheme,) * self.layers, what)

    def innerq(self, config: CacheConfig, name: str, group: str) -> Plan:
        """Return the plan of one cache configuration, with each layer's calibrated lambda for key_norm 'folded'."""
        norms = self.key_norms if config.key_norm == "folded" and self.key_norms else (None,) * self.layers
        schemes = tuple(innerq_scheme(config, name, norm) for norm in norms)
        return Plan(name, group, schemes, describe(config))


def full_precision(sizes: Sizes) -> Plan:
    """Return the plan that quantises nothing."""
    return sizes.uniform(None, "fp16", "presets", "nothing quantised")


def plans_of(groups: Iterable[str], sizes: Sizes) -> list[Plan]:
    """Return the plans of the named groups, in order, each name once. ConfigError for an unknown group."""
    made: dict[str, Plan] = {}
    for group in groups:
        if group not in _GROUPS:
            raise ConfigError(f"unknown group of schemes '{group}'", got=group, fix=nearest(group, _GROUPS))
        for plan in _GROUPS[group](sizes):
            made.setdefault(plan.name, plan)
    return list(made.values())


def describe(config: CacheConfig) -> str:
    """Return the fields of a configuration in a few words."""
    keys, values = f"{config.key_bits}-bit {config.key_mode}", f"{config.value_bits}-bit {config.value_mode}"
    return f"keys {keys}, values {values}, sink {config.sink}, recent {config.recent}, key_norm {config.key_norm}"


def _presets(sizes: Sizes) -> list[Plan]:
    return [sizes.innerq(config, name, "presets") for name, config in PRESETS.items()]


def _baselines(sizes: Sizes) -> list[Plan]:
    return [sizes.uniform(one, one.name, "baselines", one.source) for one in baselines(sizes.head_dim)]


def _bits(sizes: Sizes) -> list[Plan]:
    choices = [(keys, values) for keys in (2, 3, 4, 8) for values in (2, 3, 4, 8)]
    return [sizes.innerq(CacheConfig(key_bits=k, value_bits=v), f"k{k} v{v}", "bits") for k, v in choices]


def _modes(sizes: Sizes) -> list[Plan]:
    plans = []
    for bits in (2, 3):
        for mode in MODES:
            config = CacheConfig(value_bits=bits, value_mode=mode)
            plans.append(sizes.innerq(config, f"v{bits} {mode}", "modes"))
    plans += [sizes.innerq(CacheConfig(key_mode=mode), f"k3 {mode}", "modes") for mode in MODES]
    for mode in MODES:
        config = CacheConfig(key_bits=4, key_mode=mode, value_bits=4, value_mode=mode)
        plans.append(sizes.innerq(config, f"k4 v4 {mode}", "modes"))
    return plans


def _sink(sizes: Sizes) -> list[Plan]:
    config = preset(DEFAULT_PRESET)
    return [sizes.innerq(config.replace(sink=tokens), f"sink {tokens}", "sink") for tokens in SINKS]


def _recent(sizes: Sizes) -> list[Plan]:
    config = preset(DEFAULT_PRESET)
    return [sizes.innerq(config.replace(recent=tokens), f"recent {tokens}", "recent") for tokens in RECENTS]


def _group(sizes: Sizes) -> list[Plan]:
    fitting = [group for group in GROUP_SIZES if sizes.head_dim % group == 0]
    config = preset(DEFAULT_PRESET)
    schemes = [grouped_scheme(config, group, sizes.head_dim, f"group {group}") for group in fitting]
    return [sizes.uniform(one, one.name, "group", f"{describe(config)}, groups of other sizes") for one in schemes]


def _key_norm(sizes: Sizes) -> list[Plan]:
    names = ("prefill", "folded", "none") if sizes.key_norms else ("prefill", "none")
    config = preset(DEFAULT_PRESET)
    return [sizes.innerq(config.replace(key_norm=name), f"key_norm {name}", "key-norm") for name in names]


def _scales(sizes: Sizes) -> list[Plan]:
    plans = []
    for name in ("balanced", "compact", "quality", "base", "small"):
        scheme = innerq_scheme(preset(name), f"{name} ls", groups=quantise_least_squares)
        plans.append(sizes.uniform(scheme, scheme.name, "scales", f"{name}, scales by least squares"))
    return plans


def _parts(sizes: Sizes) -> list[Plan]:
    plans = []
    for name in ("balanced", "compact"):
        scheme = innerq_scheme(preset(name), name)
        plans.append(sizes.uniform(keys_only(scheme), f"{name} keys only", "parts", "values in full precision"))
        plans.append(sizes.uniform(values_only(scheme), f"{name} values only", "parts", "keys in full precision"))
    return plans


def keys_only(scheme: Scheme) -> Scheme:
    """Return the scheme with values in full precision."""
    return dataclasses.replace(scheme, value_hold=Hold(0, FOREVER, 1), value_bits=FULL_BITS)


def values_only(scheme: Scheme) -> Scheme:
    """Return the scheme with keys in full precision."""
    return dataclasses.replace(scheme, key_hold=Hold(0, FOREVER, 1), key_bits=FULL_BITS)


_GROUPS = {
    "presets": _presets,
    "baselines": _baselines,
    "bits": _bits,
    "modes": _modes,
    "sink": _sink,
    "recent": _recent,
    "group": _group,
    "key-norm": _key_norm,
    "scales": _scales,
    "parts": _parts,
}
