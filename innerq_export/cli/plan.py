"""`innerq-export plan`: what a build will take and what stands against it, before a byte of weights is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from innerq_export.cli.output import note, print_json, print_table
from innerq_export.cli.params import RESULT_FILE, SIZE, format_option
from innerq_export.cli.request import request_of, request_options

if TYPE_CHECKING:
    from innerq_export.plan import Plan
    from innerq_export.plan.plan import Fit


@click.command(name="plan")
@request_options
@click.option("--card", metavar="NAME", help="Card to run on: h200, h100, rtx-4090, ...  [default: this machine's]")
@click.option("--memory", type=SIZE, help="GPU memory that may be used, e.g. 24G.  [default: all of the card's]")
@click.option("--save", type=RESULT_FILE, help="Also write plan.json, for `innerq-export build --plan`.")
@format_option
def command(card: str | None, memory: int | None, save: Path | None, form: str, **choices: Any) -> int:
    """Say what building MODEL takes: memory, disk, time, KV bytes, the longest context, and every incompatibility.

    Reads config.json and safetensors headers only, also of a model on the hub. The exit code is the build's: 0 when
    nothing stands against it, 1 unsupported, 4 something is missing here, 5 too little memory or disk.
    """
    from innerq_export.plan import make_plan

    plan = make_plan(request_of(**choices), card, memory)
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(plan.to_json(), encoding="utf-8")
    if form == "json":
        print_json(plan.to_dict())
    else:
        _print(plan)
    return plan.exit_code


def _print(plan: Plan) -> None:
    for line in plan.notes:
        note(f"note: {line}")
    asked = plan.request
    print_table(
        f"{asked.model} for {asked.backend}, {asked.max_batch} sequences of {asked.max_context} tokens", _rows(plan)
    )
    for phase in plan.phases:
        seconds = "no past build here" if phase.seconds is None else f"{phase.seconds:,.0f} s"
        click.echo(f"  {phase.name:<14} memory {_size(phase.memory):>9}  disk {_size(phase.disk):>9}  {seconds}")
    for problem in plan.problems:
        click.echo(f"{f'PROBLEM (exit {problem.code})' if problem.code else 'note'}: {problem.text}")
        if problem.fix:
            click.echo(f"  fix: {problem.fix}")


def _rows(plan: Plan) -> dict[str, str]:
    kv, gpu = plan.kv, plan.needed
    rows = {
        "weights": _size(plan.weight_bytes),
        "engine folder": f"{_size(plan.engine_bytes)} more on the disk, {_size(plan.plan_bytes)} of it the engine file",
        "KV per token": f"{kv.packed:,.0f} bytes; fp16 {kv.fp16:,}, fp8 {kv.fp8:,}",
        "GPU memory": f"{_size(gpu.total)}: weights {_size(gpu.weights)}, cache {_size(gpu.cache)}, "
        f"window {_size(gpu.window)}, workspace {_size(gpu.workspace)} (estimated)",
    }
    if kv.backend != kv.packed:
        rows["KV per token"] += f"; as {plan.request.backend} lays it out {kv.backend:,.0f}"
    if plan.fit:
        rows["fits"] = _fit(plan.fit, plan)
    if plan.available_memory is not None:
        rows["memory here"] = f"{_size(plan.available_memory)} available"
    return rows


def _fit(fit: Fit, plan: Plan) -> str:
    asked = plan.request
    return (
        f"{fit.name or 'card'} with {_size(fit.memory)}: up to {fit.longest_context:,} tokens at batch "
        f"{asked.max_batch}, up to batch {fit.largest_batch:,} at {asked.max_context:,} tokens"
    )


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"
