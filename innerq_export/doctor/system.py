"""The machine: Python, memory, disk, cards, compilers."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from innerq_export.doctor.finding import Finding, State
from innerq_export.doctor.run import output_of

GIB = 1 << 30
LOW_DISK_GIB = 2
TOOLS = {
    "c++": ("c++", "--version", "apt-get install g++"),
    "cmake": ("cmake", "--version", "pip install 'cmake>=3.25' ninja"),
    "ninja": ("ninja", "--version", "pip install ninja"),
    "nvcc": ("nvcc", "--version", "install the CUDA toolkit: https://developer.nvidia.com/cuda-downloads"),
}
OLDEST_PYTHON = (3, 11)


def python() -> Iterator[Finding]:
    """Python itself and the platform."""
    state: State = "ok" if sys.version_info >= OLDEST_PYTHON else "problem"
    found, wanted = f"{platform.python_version()} at {sys.executable}", ".".join(map(str, OLDEST_PYTHON))
    yield Finding("system", "python", state, found, f"use Python >= {wanted}")
    yield Finding("system", "platform", "ok", f"{platform.system()} {platform.release()} {platform.machine()}")


def memory() -> Iterator[Finding]:
    """Main memory and processors that this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("system", "memory", "ok", f"{total / GIB:.1f} GiB, {processors} processors")


def disk() -> Iterator[Finding]:
    """Free space where engines and temporary files go."""
    for name, place in (("disk here", Path.cwd()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free / GIB
        state: State = "ok" if free >= LOW_DISK_GIB else "warning"
        yield Finding("system", name, state, f"{free:.1f} GiB free in {place}", f"free at least {LOW_DISK_GIB} GiB")


def cards() -> Iterator[Finding]:
    """NVIDIA cards and driver, as nvidia-smi tells them."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        yield Finding(
            "gpu", "driver", "absent", "no nvidia-smi: no NVIDIA driver", "install NVIDIA's driver to run on a GPU"
        )
        return
    asked = "name,compute_cap,memory.total,driver_version"
    lines = output_of([smi, f"--query-gpu={asked}", "--format=csv,noheader"]).splitlines()
    for line in lines:
        yield Finding("gpu", "card", "ok", line)
    if not lines:
        yield Finding("gpu", "driver", "warning", "nvidia-smi shows no card", "nvidia-smi says why")


def tools() -> Iterator[Finding]:
    """What `innerq-export plugin build` needs."""
    beside = str(Path(sys.executable).parent)
    for name, (program, option, fix) in TOOLS.items():
        places = os.pathsep.join([os.environ.get("PATH", ""), beside, "/usr/local/cuda/bin"])
        found = shutil.which(program, path=places)
        if found is None:
            yield Finding("tools", name, "absent", "not found: needed to build the plugin", fix)
        else:
            version = re.search(r"\d+\.\d[\w.]*", output_of([found, option]))
            yield Finding("tools", name, "ok", f"{version.group() if version else 'version unknown'} ({found})")
