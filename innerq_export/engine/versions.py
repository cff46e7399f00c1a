"""Versions of what is installed, read from package metadata: nothing is imported."""

from __future__ import annotations

import platform
import re
from importlib import metadata

TRACKED = ("innerq-export", "torch", "transformers", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


_ALSO_AS = {"onnxruntime": ("onnxruntime-gpu",), "tensorrt": ("tensorrt-cu13", "tensorrt-cu12")}


def version_of(package: str) -> str | None:
    """Return the installed version of a package, also under the other names that bring the same module; or None."""
    for name in (package, *_ALSO_AS.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def installed_versions() -> dict[str, str]:
    """Return Python's version and that of every tracked package that is installed."""
    found = {name: version for name in TRACKED if (version := version_of(name))}
    return {"python": platform.python_version(), **found}


def release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version such as '1.31.1rc2': the part that decides compatibility here."""
    major, minor = ([int(number) for number in re.findall(r"\d+", version)] + [0, 0])[:2]
    return major, minor
