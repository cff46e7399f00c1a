"""`innerq-export plugin`: the kernel library and TensorRT plugin, built for the card at hand or for named ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from innerq_export.cli.output import RichProgress, note, print_json, print_table
from innerq_export.cli.params import FOLDER, format_option


@click.group("plugin")
def command() -> None:
    """Build the kernel library (C ABI and TensorRT plugin in one) or show which one is used."""


@command.command("build")
@click.option("--arch", "architectures", multiple=True, metavar="NUMBER", help="90, 8.9, native (default). Repeatable.")
@click.option("--build-dir", type=FOLDER, help="Where to build.  [default: build/plugins of the checkout]")
@click.option("--tensorrt-include", type=FOLDER, help="Folder with NvInfer.h, where CMake does not find it itself.")
@click.option("--host-only", is_flag=True, help="Only the CPU build of the same code (g++, no nvcc): for tests.")
@click.option("--jobs", type=click.IntRange(1), help="Compilers at a time.  [default: all cores]")
@format_option
def build(
    architectures: tuple[str, ...],
    build_dir: Path | None,
    tensorrt_include: Path | None,
    host_only: bool,
    jobs: int | None,
    form: str,
) -> None:
    """Compile the kernels with CMake and nvcc."""
    from innerq_export.integrations.build import build_library
    from innerq_export.integrations.resolve import BUILD_DIR

    result = build_library(
        architectures,
        host_only=host_only,
        build_dir=build_dir or BUILD_DIR,
        tensorrt_include=tensorrt_include,
        jobs=jobs,
        progress=RichProgress(),
    )
    facts = {"library": str(result.library), **dataclasses.asdict(result.info), "seconds": round(result.seconds, 1)}
    _show(facts, form)
    if build_dir is not None and build_dir != BUILD_DIR:
        note(f"to use it: export INNERQ_LIBRARY={result.library}")


@command.command("show")
@click.option("--host", is_flag=True, help="The CPU build instead of the CUDA one.")
@format_option
def show(host: bool, form: str) -> None:
    """Show the library that the torch ops and benches load, or why there is none."""
    from innerq_export.integrations.library import load

    library = load("host" if host else "cuda")
    _show({"library": str(library.path), **dataclasses.asdict(library.build)}, form)


def _show(facts: dict[str, object], form: str) -> None:
    facts.pop("path")
    if form == "json":
        print_json(facts)
    else:
        print_table("Kernel library", facts)
