"""TensorRT: headers for building the plugin, and of every installed flavour what a process really loads."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from innerq_export.doctor.finding import Finding
from innerq_export.doctor.packages import version_of
from innerq_export.doctor.run import ask_python

FLAVOURS = ("tensorrt", "tensorrt-lean", "tensorrt-rtx")
HEADER_PLACES = (
    "/usr/local/tensorrt/include",
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
)
LOADED = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
lines = open("/proc/self/maps").read().splitlines()
files = sorted({line.split()[-1] for line in lines if "libnvinfer" in line or "libtensorrt" in line})
print(json.dumps({"version": module.__version__, "files": files}))
"""


def headers() -> Iterator[Finding]:
    """The folder that CMake would take NvInfer.h from."""
    named = os.environ.get("TENSORRT_INCLUDE_DIR")
    for place in [named, *HEADER_PLACES] if named else HEADER_PLACES:
        file = Path(place) / "NvInferVersion.h"
        if file.is_file():
            numbers = re.findall(
                r"define (?:TRT|NV_TENSORRT)_(?:MAJOR|MINOR)\w* (\d+)", file.read_text(errors="replace")
            )
            yield Finding("tensorrt", "headers", "ok", f"{'.'.join(numbers[:2])} in {place}")
            return
    fix = "apt-get install libnvinfer-headers-dev, or set TENSORRT_INCLUDE_DIR to the SDK's include folder"
    yield Finding("tensorrt", "headers", "absent", "no NvInfer.h: needed to build the plugin", fix)


def loaded() -> Iterator[Finding]:
    """The version every flavour reports when loaded, against the one pip installed."""
    for package in FLAVOURS:
        installed = version_of(package)
        if installed is None:
            continue
        answer = ask_python(LOADED, package.replace("-", "_"))
        if "error" in answer:
            fix = f"pip install --force-reinstall {package}=={installed}"
            yield Finding("tensorrt", package, "problem", f"{installed} cannot be loaded: {answer['error']}", fix)
            continue
        yield compared(package, installed, answer["version"], answer["files"])


def compared(package: str, installed: str, running: str, files: list[str]) -> Finding:
    """Tell a package from the library that another installation put in its place."""
    where = f" from {Path(files[0]).parent}" if files else ""
    if running.split(".")[:3] == installed.split(".")[:3]:
        return Finding("tensorrt", package, "ok", f"{running}{where}")
    text = f"pip installed {installed}, but {running} is loaded{where}"
    return Finding("tensorrt", package, "problem", text, "take the other installation out of LD_LIBRARY_PATH")
