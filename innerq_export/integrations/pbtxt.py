"""Protobuf's text form, written without protobuf: messages as dicts, repeated fields as lists, enum names as `Enum`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Enum(str):
    """An enum value: written without quotes."""


def to_pbtxt(message: Mapping[str, Any], indent: str = "") -> str:
    """Return the fields of `message` in order, one a line; nested messages in braces."""
    return "".join(_field(name, value, indent) for name, value in message.items())


def _field(name: str, value: Any, indent: str) -> str:
    if isinstance(value, list):
        if value and isinstance(value[0], Mapping):
            return "".join(_field(name, item, indent) for item in value)
        return f"{indent}{name}: [{', '.join(map(_scalar, value))}]\n"
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{to_pbtxt(value, indent + '  ')}{indent}}}\n"
    return f"{indent}{name}: {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, Enum | int | float) else json.dumps(value)
