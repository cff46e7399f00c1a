"""`innerq-export bench`: measurements, as a table, as JSON, and as figures."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from innerq_export.cli.bench_decode import decode
from innerq_export.cli.output import RichProgress, note, print_json
from innerq_export.cli.params import FOLDER, RESULT_FOLDER, format_option
from innerq_export.spec import DEFAULT_PRESET, PRESETS

_SHAPES = ("all", "table", "growth", "behaviour", "prefill", "sweep", "smoke")
_ALL = ("table", "growth", "behaviour", "prefill")


@click.group("bench")
def command() -> None:
    """Measure what this project claims, on the machine at hand."""


command.add_command(decode)


@command.command("kernels")
@click.option(
    "--shapes",
    multiple=True,
    type=click.Choice(_SHAPES),
    default=("all",),
    show_default=True,
    help="table: shapes with a time to reach; growth: 4K to 1M tokens; behaviour: capacity, ragged lengths, append; "
    "prefill; all: these four; sweep: batch x heads x tokens; smoke: seconds on a CPU. Repeatable.",
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    type=click.Choice(tuple(PRESETS)),
    default=(DEFAULT_PRESET,),
    show_default=True,
    help="For every section but the table. Repeatable.",
)
@click.option("--peers/--no-peers", default=True, show_default=True, help="Also time torch SDPA and FlashInfer.")
@click.option(
    "--paper-kernels",
    type=FOLDER,
    help="Checkout of the InnerQ paper's code (github.com/mthcom/innerq), or its folder speedtest: its kernels are "
    "compiled for this card with nvcc, run and listed too. Without .cu files there, its programs benchmark* are run.",
)
@click.option("--library", type=click.Path(path_type=Path), help="Kernel library.  [default: see plugin show]")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option("--output", type=RESULT_FOLDER, help="Write kernels.json, kernels.md and figures into this folder.")
@format_option
def kernels(
    shapes: tuple[str, ...],
    presets: tuple[str, ...],
    peers: bool,
    paper_kernels: Path | None,
    library: Path | None,
    device: str,
    output: Path | None,
    form: str,
) -> None:
    """Check the kernels against fp64 on fresh inputs, then time them beside their peers."""
    from innerq_export.bench.kernels import Options, run
    from innerq_export.bench.markdown import markdown
    from innerq_export.errors import ParityError

    sections = tuple(dict.fromkeys(s for shape in shapes for s in (_ALL if shape == "all" else (shape,))))
    line = "innerq-export " + " ".join(sys.argv[1:])
    report = run(Options(sections, presets, peers, paper_kernels, library, device, line), RichProgress())
    if form == "json":
        print_json(report.to_dict())
    else:
        click.echo(markdown(report))
    if output is not None:
        from innerq_export.figures.latency import latency_figures

        for path in [*report.write(output, "kernels"), *latency_figures(report.to_dict(), output)]:
            note(f"  wrote {path}")
    if wrong := report.wrong():
        first = wrong[0]
        raise ParityError(
            f"{len(wrong)} of our rows are wrong",
            expected="relative L2 at most 2e-3, ordinary and peaked; appends equal to the reference's",
            got=f"{first.name} {first.precision}: {first.error} / {first.error_peaked}",
            fix="do not use these times; report the card, the library's build and this output",
        )


@command.command("draw")
@click.argument("report", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", type=RESULT_FOLDER, required=True, help="Folder for the figures.")
def draw(report: Path, output: Path) -> None:
    """Draw the figures of a kernels.json or decode.json again, anywhere."""
    import json

    from innerq_export.bench import decode_report
    from innerq_export.bench import report as kernels_report
    from innerq_export.errors import ConfigError
    from innerq_export.figures.decode import decode_figures
    from innerq_export.figures.latency import latency_figures

    drawers = {kernels_report.SCHEMA: latency_figures, decode_report.SCHEMA: decode_figures}
    try:
        told = json.loads(report.read_text(encoding="utf-8"))
    except ValueError as error:
        told = {"schema": error}
    if not isinstance(told, dict) or told.get("schema") not in drawers:
        raise ConfigError(
            f"{report}: not a report of bench kernels or bench decode",
            expected=" or ".join(drawers),
            got=told.get("schema") if isinstance(told, dict) else type(told).__name__,
            fix="name a kernels.json or decode.json that --output wrote",
        )
    for path in drawers[told["schema"]](told, output):
        click.echo(path)
