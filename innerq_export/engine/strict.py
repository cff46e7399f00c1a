"""JSON values -> frozen dataclasses, by their type hints and nothing else: what does not fit is refused by its path."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from innerq_export.errors import nearest


def decode(hint: Any, value: Any, path: str = "") -> Any:
    """Return `value` as type `hint`: a dataclass, Mapping, tuple, X | None, Path, Any, or a plain JSON type.

    Raises ValueError that begins with the path of what does not fit, such as 'model.layers'.
    """
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, path)
    if hint is Path:
        return Path(_of(str, value, path))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else decode(arguments[0], value, path)
    if origin is tuple:
        return _tuple(arguments, _of(list, value, path), path)
    if origin is Mapping:
        items = _of(dict, value, path).items()
        return {key: decode(arguments[1], item, f"{path}.{key}") for key, item in items}
    return _of(hint, value, path)


def _dataclass(hint: Any, value: Any, path: str) -> Any:
    given = _of(dict, value, path)
    hints = get_type_hints(hint)
    fields = {field.name: field for field in dataclasses.fields(hint)}
    for name in given:
        if name not in fields:
            raise ValueError(f"{_join(path, name)} is unknown, {nearest(name, fields)}")
    for name, field in fields.items():
        if name not in given and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_join(path, name)} is missing")
    return hint(**{name: decode(hints[name], item, _join(path, name)) for name, item in given.items()})


def _tuple(arguments: tuple[Any, ...], items: list[Any], path: str) -> tuple[Any, ...]:
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(items)
    if len(items) != len(arguments):
        raise ValueError(f"{path} has {len(items)} items instead of {len(arguments)}")
    numbered = enumerate(zip(arguments, items, strict=True))
    return tuple(decode(hint, item, f"{path}.{index}") for index, (hint, item) in numbered)


def _of(hint: type, value: Any, path: str) -> Any:
    if type(value) is not hint:
        raise ValueError(f"{path} is {value!r}, not of type {hint.__name__}")
    return value


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
