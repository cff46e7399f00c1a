"""`innerq-export bench decode`: a whole model's decode step over our cache and over others."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import click

from innerq_export.cli.output import RichProgress, note, print_json
from innerq_export.cli.params import RESULT_FOLDER, SIZE, format_option
from innerq_export.spec import DEFAULT_PRESET, PRESETS


@click.command("decode")
@click.option(
    "--model",
    type=click.Choice(["llama-3.1-8b", "small"]),
    default="llama-3.1-8b",
    show_default=True,
    help="Shape of the model; its weights are random. small: for a CPU.",
)
@click.option("--preset", type=click.Choice(tuple(PRESETS)), default=DEFAULT_PRESET, show_default=True)
@click.option("--dtype", type=click.Choice(["float16", "bfloat16"]), default="float16", show_default=True)
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="BxTOKENS",
    help="Sequences and tokens, such as 8x32K. Repeatable.  [default: 13 points from 1x1K to 32x16K and 1x128K]",
)
@click.option(
    "--peers/--no-peers", default=True, show_default=True, help="Also torch SDPA over 16-bit keys and values."
)
@click.option("--flashinfer/--no-flashinfer", default=True, show_default=True, help="Also FlashInfer fp8, if there.")
@click.option("--fit/--no-fit", default=True, show_default=True, help="Fill the card's memory: the longest context.")
@click.option("--compile/--eager", "compiled", default=True, show_default=True, help="Let torch compile the layers.")
@click.option("--library", type=click.Path(path_type=Path), help="Kernel library.  [default: see plugin show]")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto", show_default=True)
@click.option("--output", type=RESULT_FOLDER, help="Write decode.json, decode.md and figures into this folder.")
@format_option
def decode(
    model: str,
    preset: str,
    dtype: str,
    points: tuple[str, ...],
    peers: bool,
    flashinfer: bool,
    fit: bool,
    compiled: bool,
    library: Path | None,
    device: str,
    output: Path | None,
    form: str,
) -> None:
    """Time whole decode steps: milliseconds, tokens per second, memory, and where the time goes."""
    from innerq_export.bench.decode_report import markdown
    from innerq_export.bench.decode_run import DecodeOptions, run

    line = "innerq-export " + " ".join(sys.argv[1:])
    sweep = sweep_of(points) if points else None
    options = DecodeOptions(
        model, preset, dtype, sweep, peers, flashinfer, fit, compiled, library, device, command=line
    )
    report = run(options, RichProgress())
    if form == "json":
        print_json(report.to_dict())
    else:
        click.echo(markdown(report))
    if output is not None:
        from innerq_export.figures.decode import decode_figures

        for path in [*report.write(output), *decode_figures(report.to_dict(), output)]:
            note(f"  wrote {path}")


def sweep_of(points: tuple[str, ...]) -> dict[int, tuple[int, ...]]:
    """Return batch -> contexts for words such as 8x32K; a wrong word is a usage error that shows the form."""
    sweep: dict[int, list[int]] = defaultdict(list)
    for point in points:
        batch, cross, tokens = point.partition("x")
        if not cross:
            raise click.BadParameter(f"'{point}' is not BxTOKENS, such as 8x32K", param_hint="--point")
        sweep[SIZE.convert(batch, None, None)].append(SIZE.convert(tokens, None, None))
    return {batch: tuple(contexts) for batch, contexts in sweep.items()}
