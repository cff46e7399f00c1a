"""`innerq-export parity`: proves that an engine says what PyTorch says; exit 3 when it does not."""

from __future__ import annotations

from pathlib import Path

import click

from innerq_export.cli.output import RichProgress
from innerq_export.cli.params import FOLDER, format_option


@click.command(name="parity")
@click.argument("engine", type=FOLDER)
@click.option(
    "--model", help="The checkpoint or .onnx it was built from.  [default: the checkpoint named in the manifest]"
)
@click.option("--full", is_flag=True, help="All cases, not only the fast subset.")
@format_option
def command(engine: Path, model: str | None, full: bool, form: str) -> None:
    """Check the engine folder ENGINE against the reference and PyTorch; sets or clears `ready` in its manifest."""
    from innerq_export.checkpoint import open_checkpoint
    from innerq_export.engine import read_manifest
    from innerq_export.pipeline import prove

    named = model or read_manifest(engine).source
    progress = RichProgress()
    from_onnx = Path(model) if model else None
    source = from_onnx if named.endswith(".onnx") else open_checkpoint(named, progress)
    report = prove(engine, source, "full" if full else "fast", progress)
    if form == "json":
        click.echo(report.to_json(), nl=False)
    else:
        click.echo(report.text())
