"""`innerq-export parity`: proves that an engine says what PyTorch says; exit 3 when it does not."""

from __future__ import annotations

from pathlib import Path

import click

from innerq_export.cli.output import RichProgress, note
from innerq_export.cli.params import FILE, FOLDER, RESULT_FILE, RESULT_FOLDER, format_option


@click.command(name="parity")
@click.argument("engine", type=FOLDER)
@click.option("--model", help="The checkpoint or .onnx it was built from.  [default: the one that the manifest names]")
@click.option("--full", is_flag=True, help="All cases, not only the fast subset.")
@click.option("--save", type=RESULT_FILE, help="Keep the logits of every call in FILE, to compare on another machine.")
@click.option("--against", type=FILE, help="Compare with the logits that --save kept elsewhere.")
@click.option(
    "--bisect", type=RESULT_FOLDER, help="Of a failing engine write the smallest failing piece into this folder."
)
@format_option
def command(
    engine: Path, model: str | None, full: bool, save: Path | None, against: Path | None, bisect: Path | None, form: str
) -> None:
    """Check the engine folder ENGINE against the reference and PyTorch; sets or clears `ready` in its manifest."""
    from innerq_export.pipeline import Extras, prove, source_of

    progress = RichProgress()
    extras = Extras(save=save, against=against, bisect=bisect)
    report = prove(engine, source_of(engine, model, progress), "full" if full else "fast", progress, extras)
    if save:
        note(f"saved: {save}; on the other machine: innerq-export parity ENGINE --against {save.name}")
    if form == "json":
        click.echo(report.to_json(), nl=False)
    else:
        click.echo(report.text())
