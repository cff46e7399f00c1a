"""Versions of what is installed, read from package metadata: nothing is imported."""

from __future__ import annotations

import platform
from importlib import metadata

TRACKED = ("innerq-export", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


def version_of(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def installed_versions() -> dict[str, str]:
    """Return Python's version and that of every tracked package that is installed."""
    found = {name: version for name in TRACKED if (version := version_of(name))}
    return {"python": platform.python_version(), **found}


def release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version such as '1.31.1'; the part that decides compatibility here."""
    major, _, rest = version.partition(".")
    return int(major), int(rest.partition(".")[0] or 0)
