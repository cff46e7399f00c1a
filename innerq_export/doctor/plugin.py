"""The plugin library: where it is, which contract and TensorRT it was built for, and whether a registry takes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerq_export.doctor.finding import Finding
from innerq_export.doctor.packages import version_of
from innerq_export.doctor.run import ask_python
from innerq_export.integrations.resolve import candidates
from innerq_export.spec import SPEC_VERSION

BUILD = "innerq-export plugin build"
DESCRIBE = """
import ctypes, json, sys
class Build(ctypes.Structure):
    _fields_ = [("struct_bytes", ctypes.c_uint32), ("spec_version", ctypes.c_int32), ("cuda_version", ctypes.c_int32),
                ("git_hash", ctypes.c_char_p), ("architectures", ctypes.c_char_p)]
library = ctypes.CDLL(sys.argv[1])
build = Build(struct_bytes=ctypes.sizeof(Build))
status = library.innerq_build_info(ctypes.byref(build))
answer = {"status": status, "spec_version": build.spec_version, "cuda": build.cuda_version,
          "git": (build.git_hash or b"").decode(), "architectures": (build.architectures or b"").decode()}
if hasattr(library, "innerq_trt_describe"):
    library.innerq_trt_describe.restype = ctypes.c_char_p
    answer |= json.loads(library.innerq_trt_describe())
print(json.dumps(answer))
"""
REGISTER = """
import importlib, json, sys
trt = importlib.import_module(sys.argv[1])
registry = trt.get_plugin_registry()
loaded = registry.load_library(sys.argv[2]) is not None
names = sorted(c.name for c in registry.all_creators if getattr(c, "plugin_namespace", "") == "innerq")
print(json.dumps({"loaded": loaded, "creators": names}))
"""


@dataclass(frozen=True)
class Creator:
    """What the library can make from a node."""

    name: str
    version: str
    namespace: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class PluginLibrary:
    """A library that answered. `tensorrt`: version of the headers it was built with, '' without creators."""

    path: Path
    spec_version: int
    tensorrt: str = ""
    build: str = ""
    creators: tuple[Creator, ...] = ()


def find_library(explicit: Path | None) -> tuple[PluginLibrary | None, list[Finding]]:
    """Return the plugin library (`explicit`, or the one that would be used) and what is to be said of it."""
    refused = []
    for candidate in candidates("cuda", explicit):
        answer = {"error": "no such file"}
        if candidate.path.is_file():
            answer = ask_python(DESCRIBE, str(candidate.path.resolve()))
        if "error" not in answer:
            library = from_answer(candidate.path, answer)
            return library, list(said_of(library))
        refused.append(f"{candidate.path} ({candidate.source}): {answer['error']}")
    text = "\n".join(["none that can be used", *refused])
    return None, [
        Finding("plugin", "library", "problem" if explicit else "absent", text, f"{BUILD}, or --library FILE")
    ]


def from_answer(path: Path, answer: dict[str, Any]) -> PluginLibrary:
    """Read the JSON of DESCRIBE."""
    creators = [
        Creator(entry["name"], entry["version"], entry["namespace"], tuple(entry["fields"]))
        for entry in answer.get("creators", [])
    ]
    build = f"{answer['git']}, CUDA {answer['cuda']}, architectures {answer['architectures']}"
    return PluginLibrary(path, answer["spec_version"], answer.get("tensorrt", ""), build, tuple(creators))


def said_of(library: PluginLibrary) -> Iterator[Finding]:
    """State contract, creators and TensorRT version of a library."""
    text = f"{library.path} ({library.build})"
    if library.spec_version != SPEC_VERSION:
        text = f"{library.path} implements contract {library.spec_version}, this innerq-export speaks {SPEC_VERSION}"
        yield Finding("plugin", "library", "problem", text, BUILD)
        return
    yield Finding("plugin", "library", "ok", text)
    if not library.creators:
        fix = f"{BUILD} --tensorrt-include <folder with NvInfer.h>"
        yield Finding("plugin", "creators", "absent", "built without TensorRT's headers: kernels only", fix)
        return
    names = ", ".join(creator.name for creator in library.creators)
    yield Finding("plugin", "creators", "ok", f"{names}, for TensorRT {library.tensorrt}")
    yield from taken_by_a_registry(library)


def taken_by_a_registry(library: PluginLibrary) -> Iterator[Finding]:
    """Load it into the registry of an installed TensorRT of the same major version. Never into TensorRT-RTX."""
    for package in ("tensorrt", "tensorrt-lean"):
        version = version_of(package)
        if version is None:
            continue
        major = library.tensorrt.split(".")[0]
        if version.split(".")[0] != major:
            text = f"built for TensorRT {library.tensorrt}, {package} {version} is installed"
            fix = f"{BUILD} --tensorrt-include <headers of TensorRT {version.split('.')[0]}>"
            yield Finding("plugin", f"registry of {package}", "warning", text, fix)
            continue
        answer = ask_python(REGISTER, package.replace("-", "_"), str(library.path.resolve()))
        good = answer.get("loaded") is True
        text = f"{package} {version} registers it" if good else f"{package} {version}: {answer.get('error', 'refused')}"
        yield Finding("plugin", f"registry of {package}", "ok" if good else "problem", text, "" if good else BUILD)
