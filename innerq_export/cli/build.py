"""`innerq-export build`: checkpoint to a checked engine folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from innerq_export.cli.output import RichProgress, note, print_json
from innerq_export.cli.params import FOLDER, SIZE, cache_config, cache_options, format_option, model_option

if TYPE_CHECKING:
    from innerq_export.engine import Inspection


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
@format_option
def command(model: str, output: Path | None, form: str, **choices: Any) -> None:
    """Build an engine folder from MODEL: `llama` (the demo), a Hugging Face folder, a hub id or an .onnx file."""
    from innerq_export.engine.inspect import inspect_engine
    from innerq_export.pipeline import build

    folder = output or Path("engines") / Path(model).stem
    engine = build(_request(model=model, output=folder, **choices), RichProgress())
    found = inspect_engine(engine.folder)
    if form == "json":
        print_json(found.to_dict())
    else:
        _print(found)


def _request(
    preset: str,
    fields: tuple[str, ...],
    capabilities: tuple[str, ...],
    plugin_library: Path | None,
    timing_cache: Path | None,
    **choices: Any,
) -> Any:
    from innerq_export.engine import BuildOptions
    from innerq_export.pipeline import BuildRequest

    options = BuildOptions(capabilities, plugin_library, timing_cache)
    return BuildRequest(cache=cache_config(preset, fields), options=options, **choices)


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
