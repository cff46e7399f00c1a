"""`innerq-export build`: checkpoint to a checked engine folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from innerq_export.cli.output import RichProgress, note, print_json
from innerq_export.cli.params import format_option
from innerq_export.cli.request import request_of, request_options
from innerq_export.errors import ConfigError

if TYPE_CHECKING:
    from innerq_export.artifacts import Engine
    from innerq_export.engine import BuildRequest, Inspection
    from innerq_export.plan import Plan

_FILE = click.Path(path_type=Path, dir_okay=False)
_BESIDE_PLAN = {"planned", "output", "overwrite", "fresh", "ignore_memory", "form", "plugin_library", "timing_cache"}


@click.command(name="build")
@request_options
@click.option(
    "--plugin-library", type=_FILE, help="libinnerq_trt.so for tensorrt.  [default: what `plugin build` made]"
)
@click.option("--timing-cache", type=_FILE, help="Kernel timings kept across builds.")
@click.option("--overwrite", is_flag=True, help="Replace an engine that is there; what has not changed is reused.")
@click.option("--fresh", is_flag=True, help="Reuse nothing that an earlier build made.")
@click.option("--plan", "planned", is_eager=True, type=_FILE, help="Build what `plan --save` wrote to this file.")
@click.option("--ignore-memory", is_flag=True, help="Build though memory or disk are foreseen not to suffice.")
@format_option
@click.pass_context
def command(
    ctx: click.Context,
    form: str,
    planned: Path | None,
    ignore_memory: bool,
    overwrite: bool,
    fresh: bool,
    **choices: Any,
) -> None:
    """Build an engine folder from MODEL: `llama` (the demo), a Hugging Face folder, a hub id or an .onnx file.

    Too little memory or disk is foreseen from the headers and refused (exit 5). With --plan the file decides everything
    but the output folder and the files of TensorRT. Stages of an earlier build of the folder, also of one that was
    killed, are reused where nothing that they depend on has changed.
    """
    from innerq_export.engine.inspect import inspect_engine

    saved = _saved_plan(ctx, planned) if planned else None
    request = replace(_planned(saved, choices) if saved else request_of(**choices), overwrite=overwrite, fresh=fresh)
    engine = _build(request, saved, ignore_memory)
    found = inspect_engine(engine.folder)
    if form == "json":
        print_json(found.to_dict())
    else:
        _print(found)


def _build(request: BuildRequest, saved: Plan | None, ignore_memory: bool) -> Engine:
    """Foresee, build, and remember what it took unless parts were reused; an .onnx has no headers to foresee from."""
    from innerq_export.engine.stage_record import read_record
    from innerq_export.pipeline import build
    from innerq_export.plan import Meter, check_plan, make_plan, record_build

    if request.model.endswith(".onnx"):
        return build(request, RichProgress())
    plan = make_plan(request, *((saved.card, saved.memory) if saved else ()))
    check_plan(plan, saved, ignore_memory=ignore_memory)
    meter = Meter(RichProgress())
    engine = build(request, meter)
    if not ((record := read_record(engine.folder)) and record.reused):
        record_build(plan.weight_bytes, plan.layers, meter.stages)
    return engine


def _saved_plan(ctx: click.Context, file: Path) -> Plan:
    """Return the plan in `file`; options that it decides must not be given beside it."""
    from innerq_export.plan import Plan

    given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    clashes = [name for name in given if name not in _BESIDE_PLAN]
    if clashes:
        raise click.UsageError(f"--plan decides {', '.join(clashes)}: leave them out, or plan again", ctx)
    try:
        return Plan.from_json(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read", got=error, fix="name the file that `plan --save` wrote") from error


def _planned(saved: Plan, choices: dict[str, Any]) -> BuildRequest:
    """Return the request that was planned, with the folder and the files of TensorRT that are named now."""
    asked = saved.request
    named = {name: choices[name] or getattr(asked.options, name) for name in ("plugin_library", "timing_cache")}
    return replace(asked, output=choices["output"] or asked.output, options=replace(asked.options, **named))


def _print(found: Inspection) -> None:
    for line in found.manifest.notes:
        note(f"note: {line}")
    if found.record and found.record.reused:
        note(f"reused, unchanged: {', '.join(found.record.reused)} ({found.record.saved_seconds:.1f} s saved)")
    cost = found.cost
    click.echo(
        f"{found.folder}: {', '.join(found.manifest.backends)}, preset {found.preset}, "
        f"{cost.bytes_per_token:,.0f} KV bytes per token ({cost.ratio:.2f}x less than fp16), "
        f"{'ready' if found.manifest.ready else 'not ready (parity was not run)'}"
    )
    applied = ", ".join(f"{rule} {count}" for rule, count in found.manifest.rewrites.items() if count)
    click.echo(f"rewritten: {found.manifest.model.layers} layers ({applied})")
    click.echo(f'next: innerq-export run {quote(str(found.folder))} --prompt "..."')
