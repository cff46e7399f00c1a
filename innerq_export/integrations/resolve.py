"""Finds libinnerq: an explicit path, INNERQ_LIBRARY, the build folder of a checkout, the installed package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import innerq_export
from innerq_export.errors import EnvironmentMismatchError

ENVIRONMENT = "INNERQ_LIBRARY"
PACKAGE = Path(innerq_export.__file__).parent
CHECKOUT = PACKAGE.parent
SOURCES = CHECKOUT / "plugins"
BUILD_DIR = CHECKOUT / "build" / "plugins"
NAMES = {"cuda": ("libinnerq_trt.so", "libinnerq.so"), "host": ("libinnerq_host.so",)}
BUILD_COMMAND = {"cuda": "innerq-export plugin build", "host": "innerq-export plugin build --host-only"}


@dataclass(frozen=True)
class Candidate:
    """A place where the library may be, and why it is looked at."""

    path: Path
    source: str


def candidates(kind: str, explicit: Path | None = None, build_dir: Path = BUILD_DIR) -> Iterator[Candidate]:
    """Yield the places in the order of precedence; an explicit path or INNERQ_LIBRARY excludes all later ones.

    `kind`: "cuda" or "host". A folder stands for every library name of the kind in it.
    """
    named = explicit or (Path(value) if (value := os.environ.get(ENVIRONMENT)) and kind == "cuda" else None)
    if named is not None:
        source = "given path" if explicit else f"environment variable {ENVIRONMENT}"
        yield from _in(named, kind, source) if named.is_dir() else [Candidate(named, source)]
        return
    yield from _in(build_dir, kind, "build folder")
    yield from _in(PACKAGE / "lib", kind, "installed package")


def _in(folder: Path, kind: str, source: str) -> Iterator[Candidate]:
    for name in NAMES[kind]:
        yield Candidate(folder / name, source)


def not_found(kind: str, refused: list[str]) -> EnvironmentMismatchError:
    """Return the error that lists every candidate with the reason of its refusal."""
    return EnvironmentMismatchError(
        f"no usable InnerQ kernel library ({kind})",
        expected=" or ".join(NAMES[kind]),
        got="".join(f"\n    {reason}" for reason in refused),
        fix=f"run '{BUILD_COMMAND[kind]}', or set {ENVIRONMENT} to a built library",
    )
