"""Parameter types and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from innerq_export.errors import ConfigError
from innerq_export.spec import DEFAULT_PRESET, PRESETS, CacheConfig, preset

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Size(click.ParamType):
    """A positive count that may be written 32768, 32K or 1M (powers of two)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the count; a wrong word is a usage error that shows the accepted form."""
        if isinstance(value, int):
            return value
        number, unit = (value[:-1], _UNITS[value[-1].upper()]) if value[-1:].upper() in _UNITS else (value, 1)
        if not number.isascii() or not number.isdigit() or int(number) * unit <= 0:
            self.fail(f"'{value}' is no size; write for example 4096, 32K or 1M", param, ctx)
        return int(number) * unit


class Result(click.Path):
    """Where a result will be written. A place that takes none is refused before the work, not after it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path. ConfigError where neither it nor the nearest folder above it can be written."""
        path = Path(str(super().convert(value, param, ctx)))
        place = next(place for place in (path, *path.absolute().parents) if place.exists())
        try:
            _try_to_write(path, place)
        except OSError as error:
            got, fix = f"{place}: {error.strerror}", "name another place, or make room there"
            raise ConfigError(f"{path} cannot be written", got=got, fix=fix) from error
        return path


def _try_to_write(path: Path, place: Path) -> None:
    if not place.is_dir():
        with path.open("ab"):
            return
    with TemporaryFile(dir=place, buffering=0) as file:
        file.write(bytes(4096))


SIZE = Size()
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
RESULT_FOLDER = Result(path_type=Path, file_okay=False)
RESULT_FILE = Result(path_type=Path, dir_okay=False)


def format_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --format human|json."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["human", "json"]),
        default="human",
        show_default=True,
        help="Form of the result on stdout.",
    )(command)


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add MODEL, positional or as --model; exactly one must be given, unless an eager option `planned` has a value."""
    command = click.option("--model", "named", is_eager=True, help="The same as MODEL.")(command)
    return click.argument("model", required=False, callback=_one_model)(command)


def _one_model(ctx: click.Context, param: click.Parameter, value: str | None) -> str:
    named = ctx.params.pop("named", None)
    if value is None and named is None and ctx.params.get("planned"):
        return ""
    if (value is None) == (named is None):
        raise click.UsageError("give exactly one of MODEL and --model, for example: --model llama", ctx)
    model = named if value is None else value
    if not model:
        raise click.UsageError("MODEL is empty: is a variable of your shell not set?", ctx)
    return model


def cache_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --preset and --cache, which together make a CacheConfig (see `cache_config`)."""
    command = click.option(
        "--cache",
        "fields",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Change one field of the preset, e.g. sink=64. Repeatable.",
    )(command)
    return click.option(
        "--preset",
        default=DEFAULT_PRESET,
        show_default=True,
        metavar="NAME",
        help=f"Cache preset: {', '.join(PRESETS)}.",
    )(command)


def cache_config(name: str, fields: tuple[str, ...]) -> CacheConfig:
    """Return preset `name` with the given FIELD=VALUE changes; unknown names are refused with the nearest one."""
    changes: dict[str, int | str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals:
            raise click.BadParameter(f"'{field}' is not FIELD=VALUE", param_hint="--cache")
        changes[key] = int(value) if value.lstrip("-").isdigit() else value
    return preset(name).replace(**changes)
