"""`innerq-export triton`: a model repository for Triton's TensorRT backend."""

from __future__ import annotations

from pathlib import Path

import click

from innerq_export.cli.output import print_json, print_table
from innerq_export.cli.params import FOLDER, format_option


@click.command("triton")
@click.argument("engine", type=FOLDER)
@click.argument("repository", type=FOLDER)
@click.option("--name", help="Name of the model.  [default: the engine folder's]")
@click.option("--max-batch", type=click.IntRange(1), help="Sequences in one batch.  [default: the engine's]")
@format_option
def command(engine: Path, repository: Path, name: str | None, max_batch: int | None, form: str) -> None:
    """Write a Triton model for the TensorRT engine folder ENGINE into the model repository REPOSITORY."""
    from innerq_export.integrations.triton import write_repository

    folder = write_repository(engine, repository, name, max_batch)
    facts = {
        "model": str(folder),
        "config": str(folder / "config.pbtxt"),
        "start": str(repository / "start.sh"),
    }
    if form == "json":
        print_json(facts)
    else:
        print_table("Triton model", facts)
