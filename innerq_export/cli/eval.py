"""`innerq-export eval`: what a cache scheme costs a model, against its fp16 cache."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from innerq_export.cli.output import RichProgress, note, print_json
from innerq_export.cli.params import FOLDER, RESULT_FOLDER, SIZE, cache_config, format_option, model_option
from innerq_export.spec import PRESETS

_GROUPS = ("presets", "baselines", "bits", "modes", "sink", "recent", "group", "key-norm", "scales", "parts")
_FILE = click.Path(path_type=Path, dir_okay=False)
AUTO = "auto"


@click.command("eval")
@model_option
@click.option(
    "--schemes",
    multiple=True,
    type=click.Choice([*_GROUPS, "none"]),
    default=("presets", "baselines"),
    show_default=True,
    help="Which comparisons to run. Repeatable.",
)
@click.option("--ablation", is_flag=True, help="All comparisons, each layer alone, and bits per layer at 3.25.")
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME",
    help=f"Also try this: {', '.join(PRESETS)}, or auto (bits per layer, see --budget). Repeatable.",
)
@click.option("--cache", "fields", multiple=True, metavar="FIELD=VALUE", help="Change one field of every --preset.")
@click.option("--budget", type=float, default=3.25, show_default=True, help="Bits per value for --preset auto.")
@click.option("--text", type=_FILE, help="UTF-8 text to measure on.  [default: prose that the demo model never saw]")
@click.option("--tokens", type=SIZE, help="Length of a window.  [default: the context, at most 2K]")
@click.option("--prompt", type=SIZE, help="Tokens of the window read in one call.  [default: half]")
@click.option("--sequences", type=SIZE, default=4, show_default=True, help="Windows per seed.")
@click.option("--seeds", type=SIZE, default=3, show_default=True, help="Seeds, from 0 on.")
@click.option("--needle-lengths", type=SIZE, multiple=True, help="Tokens of recall prompts. Repeatable.")
@click.option("--needles", type=SIZE, default=16, show_default=True, help="Recall prompts per length, depth and seed.")
@click.option(
    "--tasks",
    metavar="NAME,...",
    help="Run these lm-eval tasks instead, under fp16 and every --preset; paper and paper-instruct are those of the "
    "paper's scripts. Needs the extra 'eval'.",
)
@click.option("--limit", type=SIZE, help="With --tasks: only this many questions of each.")
@click.option("--include-path", type=FOLDER, help="With --tasks: a folder of your own task definitions.")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option("--from", "planned", type=_FILE, is_eager=True, help="Print and draw this fidelity.json again; no MODEL.")
@click.option(
    "--output", "-o", type=RESULT_FOLDER, help="Write fidelity.json, fidelity.md and figures into this folder."
)
@format_option
def command(
    model: str, form: str, output: Path | None, tasks: str | None, planned: Path | None, **choices: Any
) -> None:
    """Measure MODEL's fidelity under every cache scheme: KL, perplexity, top-1, recall, attention dB."""
    line = "innerq-export " + " ".join(sys.argv[1:])
    if tasks:
        told = _tasks(model, tasks, choices)
    else:
        told = _measured_before(planned) if planned else _fidelity(model, line, **choices)
        if output is not None:
            _write(told, output)
    if form == "json":
        print_json(told)
    elif tasks:
        from innerq_export.eval.tasks import task_table

        click.echo(task_table(told))
    else:
        from innerq_export.eval.report import markdown

        click.echo(markdown(told))


def _measured_before(file: Path) -> Mapping[str, Any]:
    from innerq_export.errors import ConfigError
    from innerq_export.eval.report import SCHEMA

    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read as JSON", got=error, fix="name a fidelity.json of eval") from error
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        raise ConfigError(f"{file}: not a report of eval", expected=SCHEMA, fix="name a fidelity.json of eval")
    return told


def _write(told: Mapping[str, Any], output: Path) -> None:
    from innerq_export.eval.report import write
    from innerq_export.figures.fidelity import fidelity_figures

    for path in [*write(told, output), *fidelity_figures(told, output)]:
        note(f"  wrote {path}")


def _fidelity(model: str, line: str, **choices: Any) -> Mapping[str, Any]:
    from innerq_export.checkpoint import open_checkpoint
    from innerq_export.eval.run import Options, evaluate

    progress = RichProgress()
    checkpoint = open_checkpoint(model, progress)
    for words in checkpoint.notes:
        note(f"note: {words}")
    options = Options(command=line, **_settings(checkpoint.shape.max_positions, **choices))
    return evaluate(checkpoint, options, progress).to_dict()


def _settings(
    context: int,
    schemes: tuple[str, ...],
    ablation: bool,
    presets: tuple[str, ...],
    fields: tuple[str, ...],
    budget: float,
    seeds: int,
    tokens: int | None,
    prompt: int | None,
    needle_lengths: tuple[int, ...],
    **others: Any,
) -> dict[str, Any]:
    """Return the Options that the command line means."""
    named = [name for name in presets if name != AUTO] or (["balanced"] if fields else [])
    words = f" {' '.join(fields)}" if fields else ""
    most = tokens or min(context, 2048)
    return {
        "groups": _GROUPS if ablation else tuple(name for name in schemes if name != "none"),
        "extra": tuple((name + (words or " (yours)"), cache_config(name, fields)) for name in named),
        "budgets": (budget,) if ablation or AUTO in presets else (),
        "sensitivity": ablation,
        "tokens": tokens or 0,
        "prompt": prompt or 0,
        "seeds": tuple(range(seeds)),
        "needle_lengths": needle_lengths or (most // 4, most // 2, most),
        **{name: others[name] for name in ("sequences", "needles", "text", "device")},
    }


def _tasks(model: str, tasks: str, choices: Mapping[str, Any]) -> Mapping[str, Any]:
    from innerq_export.checkpoint import open_checkpoint
    from innerq_export.eval.tasks import TaskOptions, run_tasks

    names = choices["presets"] or ("balanced",)
    options = TaskOptions(
        tasks=tuple(tasks.split(",")),
        caches=tuple((name, cache_config(name, choices["fields"])) for name in names),
        limit=choices["limit"],
        include=choices["include_path"],
        device=choices["device"],
    )
    return run_tasks(open_checkpoint(model, RichProgress()), options)
