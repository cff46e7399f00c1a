"""`innerq-export inspect`: what is in an engine folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from innerq_export.cli.output import print_json, print_table
from innerq_export.cli.params import FOLDER, format_option

if TYPE_CHECKING:
    from innerq_export.engine.inspect import Inspection
    from innerq_export.engine.manifest import Manifest

_NORMS = {
    "prefill": "the cache learns it from each prompt",
    "folded": "it is in the weights of queries and keys",
    "none": "keys are quantised as they are",
}


@click.command(name="inspect")
@click.argument("engine", type=FOLDER)
@click.option("--full", is_flag=True, help="Hash every file again, also where size and time are unchanged.")
@format_option
def command(engine: Path, full: bool, form: str) -> None:
    """Show versions, sizes, cache cost and parity of the engine folder ENGINE. Exit 1 when its files are damaged."""
    from innerq_export.engine.inspect import inspect_engine

    found = inspect_engine(engine, full=full)
    if form == "json":
        print_json(found.to_dict())
    else:
        _print(found)
    if found.damage:
        raise click.exceptions.Exit(1)


def _print(found: Inspection) -> None:
    manifest, cost = found.manifest, found.cost
    shape = manifest.model
    print_table(
        str(found.folder),
        {
            "model": f"{manifest.source}{''.join(f' ({line})' for line in manifest.notes)}",
            "shape": f"{shape.layers} layers, {shape.heads}/{shape.kv_heads} heads of {shape.head_dim}, "
            f"vocabulary {shape.vocab}, {manifest.dtype}",
            "cache": f"preset {found.preset}: keys {manifest.cache.key_bits} bit {manifest.cache.key_mode}, "
            f"values {manifest.cache.value_bits} bit {manifest.cache.value_mode}",
            "key norm": f"{manifest.cache.key_norm} ({_NORMS[manifest.cache.key_norm]})",
            "KV bytes per token": f"{cost.bytes_per_token:,.0f} (fp16: {cost.fp16_bytes_per_token:,}; "
            f"{cost.ratio:.2f}x less)",
            "full-precision window": f"{cost.window_bytes:,} bytes a sequence "
            f"({manifest.cache.sink} sink + {manifest.cache.recent}..{manifest.cache.recent + 31} recent tokens)",
            "limits": _limits(manifest),
            "backends": ", ".join(manifest.backends),
            "built": f"{manifest.created} by innerq-export {manifest.tool_version}",
            "stages": ", ".join(_stages(found)) or "not known",
            "rewrites": ", ".join(f"{name} {count}" for name, count in manifest.rewrites.items()) or "not known",
            "versions": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
            "ready": "yes" if manifest.ready else "no: run innerq-export parity",
            "parity": (manifest.parity or {}).get("summary", "never run"),
        },
    )
    print_table(
        "files",
        {name: f"{entry.bytes:,} bytes{' (link)' if entry.linked else ''}" for name, entry in manifest.files.items()},
    )
    if found.damage:
        click.echo(f"damaged: {found.damage}")


def _limits(manifest: Manifest) -> str:
    own = f"context {manifest.model.max_positions:,}, any batch"
    if list(manifest.backends) == ["onnxruntime"]:
        return own
    return f"batch {manifest.max_batch}, context {manifest.max_context:,} (ONNX Runtime: {own})"


def _stages(found: Inspection) -> Iterator[str]:
    for name, stage in found.record.stages.items() if found.record else ():
        yield f"{name} {stage.seconds:.1f} s{' (reused)' if stage.reused else ''}"
