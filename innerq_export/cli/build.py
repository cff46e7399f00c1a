"""`innerq-export build`: checkpoint to a checked engine folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from innerq_export.cli.output import RichProgress, note, print_json
from innerq_export.cli.params import FOLDER, SIZE, cache_config, cache_options, format_option, model_option
from innerq_export.errors import ConfigError

if TYPE_CHECKING:
    from innerq_export.artifacts import Engine
    from innerq_export.engine import Inspection
    from innerq_export.pipeline import BuildRequest
    from innerq_export.plan import Plan, Question

_PLAN_FILE = click.Path(path_type=Path, dir_okay=False)
_BESIDE_PLAN = {"planned", "output", "overwrite", "ignore_memory", "form", "plugin_library", "timing_cache"}


@click.command(name="build")
@model_option
@click.option("--output", "-o", type=FOLDER, help="Engine folder to make.  [default: engines/NAME]")
@cache_options
@click.option("--backend", default="auto", show_default=True, help="auto, onnxruntime, tensorrt-rtx or tensorrt.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True)
@click.option("--max-batch", type=SIZE, default=8, show_default=True, help="Most sequences of a TensorRT engine.")
@click.option("--max-context", type=SIZE, help="Most tokens of a sequence, e.g. 32K.  [default: the model's, up to 8K]")
@click.option(
    "--logits", type=click.Choice(["last", "all"]), default="last", show_default=True, help="Of which tokens."
)
@click.option("--parity", type=click.Choice(["fast", "full", "off"]), default="fast", show_default=True)
@click.option(
    "--compute-capability", "capabilities", multiple=True, metavar="8.9", help="Cards of a TensorRT-RTX engine."
)
@click.option(
    "--plugin-library",
    type=click.Path(path_type=Path, dir_okay=False),
    help="libinnerq_trt.so for tensorrt.  [default: what `plugin build` made]",
)
@click.option(
    "--timing-cache", type=click.Path(path_type=Path, dir_okay=False), help="Kernel timings kept across builds."
)
@click.option("--copy-weights", is_flag=True, help="Copy the weights instead of linking the checkpoint's files.")
@click.option("--overwrite", is_flag=True, help="Replace an engine that is there.")
@click.option("--plan", "planned", is_eager=True, type=_PLAN_FILE, help="Build what `plan --save` wrote to this file.")
@click.option("--ignore-memory", is_flag=True, help="Build though memory or disk are foreseen not to suffice.")
@format_option
@click.pass_context
def command(
    ctx: click.Context, form: str, planned: Path | None, ignore_memory: bool, overwrite: bool, **choices: Any
) -> None:
    """Build an engine folder from MODEL: `llama` (the demo), a Hugging Face folder, a hub id or an .onnx file.

    Too little memory or disk is foreseen from the headers and refused (exit 5). With --plan the file decides everything
    but the output folder and the files of TensorRT.
    """
    from innerq_export.engine.inspect import inspect_engine

    saved = _saved_plan(ctx, planned) if planned else None
    request = _planned_request(saved, overwrite, choices) if saved else _request(overwrite=overwrite, **choices)
    engine = _build(request, saved, ignore_memory)
    found = inspect_engine(engine.folder)
    if form == "json":
        print_json(found.to_dict())
    else:
        _print(found)


def _build(request: BuildRequest, saved: Plan | None, ignore_memory: bool) -> Engine:
    """Foresee, build, and remember what it took; an .onnx file has no headers to foresee from."""
    from innerq_export.pipeline import build
    from innerq_export.plan import Meter, check_plan, make_plan, record_build

    if request.model.endswith(".onnx"):
        return build(request, RichProgress())
    plan = make_plan(_question(request, saved))
    check_plan(plan, saved, ignore_memory=ignore_memory)
    meter = Meter(RichProgress())
    engine = build(request, meter)
    record_build(plan.weight_bytes, plan.layers, meter.stages)
    return engine


def _question(request: BuildRequest, saved: Plan | None) -> Question:
    """Return what to plan before `request` is built; a card and its memory are only known from a saved plan."""
    from innerq_export.plan import Question

    return Question(
        model=request.model,
        output=str(request.output),
        cache=request.cache,
        backend=request.backend,
        dtype=request.dtype,
        max_batch=request.max_batch,
        max_context=request.max_context,
        logits=request.logits,
        parity=request.parity,
        copy_weights=request.copy_weights,
        compute_capabilities=request.options.compute_capabilities,
        card=saved.question.card if saved else None,
        memory=saved.question.memory if saved else None,
    )


def _request(
    model: str,
    output: Path | None,
    preset: str,
    fields: tuple[str, ...],
    capabilities: tuple[str, ...],
    plugin_library: Path | None,
    timing_cache: Path | None,
    **choices: Any,
) -> BuildRequest:
    from innerq_export.engine import BuildOptions
    from innerq_export.pipeline import BuildRequest

    return BuildRequest(
        model=model,
        output=output or Path("engines") / Path(model).stem,
        cache=cache_config(preset, fields),
        options=BuildOptions(capabilities, plugin_library, timing_cache),
        **choices,
    )


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


def _planned_request(saved: Plan, overwrite: bool, choices: dict[str, Any]) -> BuildRequest:
    from innerq_export.engine import BuildOptions
    from innerq_export.pipeline import BuildRequest

    asked = saved.question
    return BuildRequest(
        model=asked.model,
        output=choices["output"] or Path(asked.output),
        cache=asked.cache,
        backend=asked.backend,
        dtype=asked.dtype,
        max_batch=asked.max_batch,
        max_context=asked.max_context,
        logits=asked.logits,
        parity=asked.parity,
        copy_weights=asked.copy_weights,
        overwrite=overwrite,
        options=BuildOptions(asked.compute_capabilities, choices["plugin_library"], choices["timing_cache"]),
    )


def _print(found: Inspection) -> None:
    for line in found.manifest.notes:
        note(f"note: {line}")
    cost = found.cost
    click.echo(
        f"{found.folder}: {', '.join(found.manifest.backends)}, preset {found.preset}, "
        f"{cost.bytes_per_token:,.0f} KV bytes per token ({cost.ratio:.2f}x less than fp16), "
        f"{'ready' if found.manifest.ready else 'not ready (parity was not run)'}"
    )
    click.echo(f'next: innerq-export run {found.folder} --prompt "..."')
