"""The configuration of an InnerQ cache: contract v1, frozen, strict, versioned (SPEC sections 1, 4, 5, 6)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from innerq_export.errors import ConfigError, nearest

SPEC_VERSION = 1
GROUP_SIZE = 32
MODES = ("symmetric", "symmetric_full", "asymmetric", "hybrid")
BITS = (2, 3, 4, 8)
KEY_NORMS = ("prefill", "folded", "none")
_FIX = "write it with CacheConfig.to_json"


@dataclass(frozen=True)
class CacheConfig:
    """How keys and values of one model live in the cache.

    `key_bits`, `value_bits`: bits of a code; `key_mode`, `value_mode`: formula of SPEC section 4; `sink`, `recent`:
    tokens kept in full precision (`recent` is a lower bound, see SPEC section 2); `key_norm`: SPEC section 5.
    Raises ConfigError for any value that cannot hold.
    """

    key_bits: int = 3
    key_mode: str = "symmetric_full"
    value_bits: int = 3
    value_mode: str = "symmetric_full"
    group_size: int = GROUP_SIZE
    sink: int = 32
    recent: int = 96
    key_norm: str = "prefill"
    spec_version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not _TYPES[field.name]:
                raise _impossible(field.name, _TYPES[field.name].__name__, repr(value), "give a value of that type")
            if not _VALID[field.name][0](value):
                raise _impossible(field.name, _VALID[field.name][1], repr(value), _hint(field.name, value))

    @property
    def window_tokens(self) -> int:
        """W = S + R + G: slots of the full-precision window."""
        return self.sink + self.recent + self.group_size

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the fields as a JSON object with sorted keys; `from_json` gives back an equal configuration."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CacheConfig:
        """Return the configuration with these fields. Unknown fields and a missing `spec_version` are refused."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in fields:
            if name not in known:
                raise ConfigError(f"cache config: unknown field '{name}'", got=name, fix=nearest(name, known))
        if "spec_version" not in fields:
            raise ConfigError("cache config: field 'spec_version' is missing", expected=SPEC_VERSION, fix="add it")
        return cls(**fields)

    @classmethod
    def from_json(cls, text: str) -> CacheConfig:
        """Return the configuration that `to_json` wrote."""
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError("cache config: not JSON", expected="a JSON object", got=str(error), fix=_FIX) from error
        if not isinstance(fields, dict):
            raise ConfigError(
                "cache config: not a JSON object", expected="an object", got=type(fields).__name__, fix=_FIX
            )
        return cls.from_dict(fields)

    def replace(self, **changes: Any) -> CacheConfig:
        """Return a copy with some fields changed; unknown names are refused."""
        return type(self).from_dict(self.to_dict() | changes)


def _impossible(name: str, expected: object, got: object, fix: str) -> ConfigError:
    return ConfigError(f"cache config: field '{name}' cannot be {got}", expected=expected, got=got, fix=fix)


def _hint(name: str, value: Any) -> str:
    return nearest(value, _NAMES[name]) if name in _NAMES else f"choose {_VALID[name][1]}"


_NAMES = {"key_mode": MODES, "value_mode": MODES, "key_norm": KEY_NORMS}
_TYPES: dict[str, type] = {
    "key_bits": int,
    "key_mode": str,
    "value_bits": int,
    "value_mode": str,
    "group_size": int,
    "sink": int,
    "recent": int,
    "key_norm": str,
    "spec_version": int,
}
_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "key_bits": (BITS.__contains__, f"one of {BITS}"),
    "key_mode": (MODES.__contains__, f"one of {MODES}"),
    "value_bits": (BITS.__contains__, f"one of {BITS}"),
    "value_mode": (MODES.__contains__, f"one of {MODES}"),
    "group_size": (GROUP_SIZE.__eq__, f"{GROUP_SIZE} (the only group size of contract v1)"),
    "sink": (lambda tokens: 0 <= tokens <= 1 << 20, "an integer from 0 to 1048576"),
    "recent": (lambda tokens: 0 <= tokens <= 1 << 20, "an integer from 0 to 1048576"),
    "key_norm": (KEY_NORMS.__contains__, f"one of {KEY_NORMS}"),
    "spec_version": (SPEC_VERSION.__eq__, f"{SPEC_VERSION} (this build's contract)"),
}
