"""The options that say what is built: `plan` and `build` share them, and both make one BuildRequest of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from innerq_export.cli.params import FILE, FOLDER, SIZE, cache_config, cache_options, model_option
from innerq_export.spec.config import KEY_NORMS

if TYPE_CHECKING:
    from innerq_export.engine import BuildRequest

_OPTIONS = (
    click.option("--output", "-o", type=FOLDER, help="Engine folder to make.  [default: engines/NAME]"),
    cache_options,
    click.option(
        "--key-norm", type=click.Choice(KEY_NORMS), help="Normalisation of keys; folded: into the weights.  [prefill]"
    ),
    click.option("--key-norm-file", type=FILE, help="For folded: what `innerq-export calibrate` wrote."),
    click.option("--key-norm-text", type=FILE, help="For folded: calibrate on this text first."),
    click.option("--backend", default="auto", show_default=True, help="auto, onnxruntime, tensorrt-rtx or tensorrt."),
    click.option("--dtype", type=click.Choice(["float16", "float32"]), default="float16", show_default=True),
    click.option("--max-batch", type=SIZE, default=8, show_default=True, help="Most sequences of a TensorRT engine."),
    click.option(
        "--max-context", type=SIZE, help="Most tokens of a sequence, e.g. 32K.  [default: the model's, up to 8K]"
    ),
    click.option(
        "--logits", type=click.Choice(["last", "all"]), default="last", show_default=True, help="Of which tokens."
    ),
    click.option("--parity", type=click.Choice(["fast", "full", "off"]), default="fast", show_default=True),
    click.option(
        "--compute-capability", "capabilities", multiple=True, metavar="8.9", help="Cards of a TensorRT-RTX engine."
    ),
    click.option(
        "--split-profiles", is_flag=True, help="TensorRT-RTX: compile prompts and decode steps apart; builds longer."
    ),
    click.option(
        "--strip-weights",
        is_flag=True,
        help="TensorRT-RTX: leave the weights out of model.engine; they are read beside.",
    ),
    click.option("--copy-weights", is_flag=True, help="Copy the weights instead of linking the checkpoint's files."),
)


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add MODEL and the options from which `request_of` makes a request."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return model_option(command)


def request_of(
    model: str,
    output: Path | None,
    preset: str,
    fields: tuple[str, ...],
    key_norm: str | None,
    capabilities: tuple[str, ...],
    plugin_library: Path | None = None,
    timing_cache: Path | None = None,
    split_profiles: bool = False,
    strip_weights: bool = False,
    **choices: Any,
) -> BuildRequest:
    """Return the request that the options make; `choices` are fields of it under their own names."""
    from innerq_export.engine import BuildOptions, BuildRequest

    return BuildRequest(
        model=model,
        output=output or Path("engines") / Path(model).stem,
        cache=cache_config(preset, (*fields, *([f"key_norm={key_norm}"] if key_norm else []))),
        options=BuildOptions(capabilities, plugin_library, timing_cache, split_profiles, strip_weights),
        **choices,
    )
