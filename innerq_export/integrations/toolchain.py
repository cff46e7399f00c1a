"""The tools that a build of the kernels needs: where they are, and what to install where they are not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from innerq_export.errors import ConfigError, EnvironmentMismatchError

OLDEST_ARCHITECTURE = 75
DEFAULT_CUDA = Path("/usr/local/cuda")
_MISTAKE = re.compile(r"error|fatal", re.IGNORECASE)


def find_tool(name: str, *places: Path) -> Path | None:
    """Return a program from PATH, from beside this Python, or from one of `places`."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    return Path(found) if found else next((place for place in places if os.access(place, os.X_OK)), None)


def require_cmake() -> Path:
    """Return cmake; EnvironmentMismatchError says how to get it."""
    cmake = find_tool("cmake")
    if cmake is None:
        raise EnvironmentMismatchError(
            "cmake was not found", expected="cmake 3.25 or later", fix="pip install 'cmake>=3.25' ninja"
        )
    return cmake


def require_nvcc() -> Path:
    """Return nvcc: $CUDACXX, PATH, $CUDA_HOME, /usr/local/cuda; EnvironmentMismatchError says how to get it."""
    named = os.environ.get("CUDACXX")
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvcc = find_tool(named or "nvcc", *(home / "bin" / "nvcc" for home in [*homes, DEFAULT_CUDA]))
    if nvcc is None:
        raise EnvironmentMismatchError(
            "nvcc, the CUDA compiler, was not found",
            expected="nvcc 12.8 or later on PATH, in $CUDACXX, $CUDA_HOME/bin or /usr/local/cuda/bin",
            got=f"CUDACXX={named}" if named else "none of them",
            fix="install the CUDA toolkit (https://developer.nvidia.com/cuda-downloads; the driver alone has no nvcc), "
            "or build for the CPU with --host-only",
        )
    return nvcc


def architectures_of(nvcc: Path) -> set[int]:
    """Return the compute capabilities (90 for sm_90) that this nvcc compiles for."""
    output = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False).stdout
    return {int(number) for number in re.findall(r"compute_(\d+)", output)}


def first_mistake(lines: list[str], otherwise: int, after: int = 0) -> str:
    """Return six lines of a compiler's output from the first error on, indented; from line `otherwise` without one.

    Errors are looked for from line `after` on.
    """
    mistakes = (index for index, line in enumerate(lines) if index >= after and _MISTAKE.search(line))
    first = next(mistakes, otherwise)
    return "".join(f"\n    {line}" for line in lines[first : first + 6])


def native_architectures() -> list[int]:
    """Return the compute capabilities of the cards of this machine, asked of nvidia-smi; empty without one."""
    smi = find_tool("nvidia-smi")
    if smi is None:
        return []
    asked = [str(smi), "--query-gpu=compute_cap", "--format=csv,noheader"]
    output = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return sorted({int(line.replace(".", "")) for line in output.split() if re.fullmatch(r"\d+\.\d", line)})


def choose_architectures(wanted: tuple[str, ...], nvcc: Path) -> list[int]:
    """Return the compute capabilities to compile for; none or "native" means those of this machine's cards."""
    native = not wanted or "native" in wanted
    numbers = set(native_architectures()) if native else set()
    if native and not numbers:
        raise EnvironmentMismatchError(
            "no NVIDIA card on this machine to compile for", fix="name one: --arch 90 (H100, H200), --arch 120 (RTX 50)"
        )
    numbers |= {_number(word) for word in wanted if word != "native"}
    known = architectures_of(nvcc)
    for number in sorted(numbers):
        if number < OLDEST_ARCHITECTURE or (known and number not in known):
            supported = sorted(n for n in known if n >= OLDEST_ARCHITECTURE)
            raise ConfigError(
                f"--arch {number}", expected=f"one of {supported} ({nvcc})", got=number, fix="--arch native"
            )
    return sorted(numbers)


def _number(word: str) -> int:
    digits = word.removeprefix("sm_").replace(".", "")
    if not digits.isascii() or not digits.isdigit():
        raise ConfigError(f"--arch {word}", expected="90, 8.9, ... or native", got=word, fix="--arch native")
    return int(digits)
