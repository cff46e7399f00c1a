"""`innerq-export calibrate`: key normalisation of a model, learnt once from a text, as a file for `build`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from innerq_export.cli.output import RichProgress, note, print_json, print_table
from innerq_export.cli.params import FILE, RESULT_FILE, SIZE, format_option, model_option


@click.command(name="calibrate")
@model_option
@click.option("--text", type=FILE, required=True, help="UTF-8 text like that which the model will read.")
@click.option(
    "--output", "-o", type=RESULT_FILE, default="key_norm.safetensors", show_default=True, help="File to write."
)
@click.option("--max-tokens", type=SIZE, default=4096, show_default=True, help="Tokens of the text to run.")
@click.option(
    "--sink", type=click.IntRange(0), default=32, show_default=True, help="The cache's sink tokens: left out."
)
@format_option
def command(model: str, text: Path, output: Path, max_tokens: int, sink: int, form: str) -> None:
    """Run MODEL over a text and write lambda, for `innerq-export build MODEL --key-norm folded --key-norm-file`.

    lambda is the root of the largest key of every channel. Weights are read a module at a time, and computed in fp32.
    """
    from innerq_export.checkpoint import open_checkpoint
    from innerq_export.checkpoint.key_norm import write_key_norm
    from innerq_export.graph.calibrate import calibrate

    progress = RichProgress()
    checkpoint = open_checkpoint(model, progress)
    norm = calibrate(checkpoint, text, sink=sink, max_tokens=max_tokens, progress=progress)
    write_key_norm(norm, output)
    smallest, largest = (float(value) for value in (norm.lambda_LHkvD.min(), norm.lambda_LHkvD.max()))
    facts = {"file": str(output), "tokens": norm.tokens, "lambda min": smallest, "lambda max": largest}
    if form == "json":
        print_json({name.replace(" ", "_"): value for name, value in facts.items()})
    else:
        print_table("Key normalisation", facts)
        note(f"next: innerq-export build {quote(model)} --key-norm folded --key-norm-file {quote(str(output))}")
