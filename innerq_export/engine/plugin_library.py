"""libinnerq_trt.so: what its build stamp says, and how TensorRT's registry takes it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerq_export.errors import EnvironmentMismatchError
from innerq_export.spec import SPEC_VERSION
from innerq_export.spec.ops import DOMAIN

_FIX = "innerq-export plugin build"


@dataclass(frozen=True)
class Stamp:
    """What `innerq_build_info` of plugins/launch/innerq.h says about a library."""

    spec_version: int
    git_hash: str
    architectures: str


class _Build(ctypes.Structure):
    _fields_ = (
        ("struct_bytes", ctypes.c_uint32),
        ("spec_version", ctypes.c_int32),
        ("cuda_version", ctypes.c_int32),
        ("git_hash", ctypes.c_char_p),
        ("architectures", ctypes.c_char_p),
    )


def stamp_of(library: Path) -> Stamp:
    """Return the build stamp.

    EnvironmentMismatchError if the file is no InnerQ library, has no TensorRT plugin in it, or is of another contract.
    """
    build = _Build(struct_bytes=ctypes.sizeof(_Build))
    try:
        loaded = ctypes.CDLL(str(library.resolve()))
        status = loaded.innerq_build_info(ctypes.byref(build))
    except (OSError, AttributeError) as error:
        raise EnvironmentMismatchError(
            f"{library} is no InnerQ plugin library", expected="libinnerq_trt.so", got=error, fix=_FIX
        ) from error
    if status != 0 or build.spec_version != SPEC_VERSION:
        raise EnvironmentMismatchError(
            f"{library} implements another contract",
            expected=f"spec version {SPEC_VERSION} (this innerq-export)",
            got=f"spec version {build.spec_version}",
            fix=_FIX,
        )
    if not hasattr(loaded, "getCreators"):
        raise EnvironmentMismatchError(
            f"{library} holds the kernels but no TensorRT plugin",
            expected="a library built where TensorRT's headers were found",
            got="no getCreators",
            fix=f"{_FIX} --tensorrt-include FOLDER, the folder with NvInfer.h",
        )
    return Stamp(build.spec_version, build.git_hash.decode(), build.architectures.decode())


def register(trt: Any, library: Path) -> None:
    """Load the library into the plugin registry of TensorRT module `trt`; never call it for tensorrt_rtx.

    Once a process: the registry refuses a second library of the same creators (11.4), and any of this contract serves.
    """
    registry = trt.get_plugin_registry()
    if any(getattr(creator, "plugin_namespace", "") == DOMAIN for creator in registry.all_creators):
        return
    if registry.load_library(str(library)) is None:
        raise EnvironmentMismatchError(
            f"TensorRT {trt.__version__} did not take {library}",
            expected="a library with getCreators and setLoggerFinder, built for this major version",
            got="no plugin creators",
            fix=_FIX,
        )
