"""Compiles the kernel library with CMake: configure, build with progress, load what came out."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from innerq_export.errors import ConfigError, UserError
from innerq_export.integrations.library import BuildInfo, load
from innerq_export.integrations.resolve import BUILD_DIR, SOURCES
from innerq_export.integrations.toolchain import (
    choose_architectures,
    find_tool,
    first_mistake,
    require_cmake,
    require_nvcc,
)
from innerq_export.progress import Progress, Silent, Step

_COUNT = re.compile(r"^\[\s*(?:(\d+)/(\d+)|(\d+)%)\]\s*(.*)")
LOG = "build.log"


@dataclass(frozen=True)
class BuildResult:
    """What a build made: the library, what it says of itself, and how long it took."""

    library: Path
    info: BuildInfo
    seconds: float


def build_library(
    architectures: tuple[str, ...] = (),
    *,
    host_only: bool = False,
    build_dir: Path = BUILD_DIR,
    tensorrt_include: Path | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Compile the library and load it once. `architectures`: words of --arch; empty means this machine's cards.

    Raises EnvironmentMismatchError where a tool is missing, ConfigError for architectures and paths that cannot be,
    UserError with the compiler's first error and the log's path where compiling fails.
    """
    progress, start = progress or Silent(), time.perf_counter()
    configure = _configure_command(architectures, host_only, build_dir, tensorrt_include)
    build = [str(require_cmake()), "--build", str(build_dir), "--parallel", str(jobs or os.cpu_count() or 1)]
    if host_only:
        build += ["--target", "innerq_host"]
    build_dir.mkdir(parents=True, exist_ok=True)
    (build_dir / LOG).write_text("")
    with progress.stage("configuring") as step:
        _run(configure, build_dir / LOG, step)
    with progress.stage("compiling") as step:
        _run(build, build_dir / LOG, step)
    library = load("host" if host_only else "cuda", build_dir)
    return BuildResult(library.path, library.build, time.perf_counter() - start)


def parse_progress(line: str) -> tuple[float, str] | None:
    """Return (fraction done, what) of a line of ninja `[3/25] ...` or make `[ 12%] ...`; None for other lines."""
    found = _COUNT.match(line)
    if found is None:
        return None
    done, total, percent, what = found.groups()
    fraction = int(done) / max(1, int(total)) if total else int(percent) / 100
    return fraction, what.split("/")[-1].strip()


def _configure_command(
    architectures: tuple[str, ...], host_only: bool, build_dir: Path, tensorrt_include: Path | None
) -> list[str]:
    if not (SOURCES / "CMakeLists.txt").is_file():
        raise ConfigError(
            "the kernels' sources are not here",
            expected=f"{SOURCES}/CMakeLists.txt",
            fix="run this from a checkout of the project (pip install -e .): wheels carry no sources",
        )
    command = [str(require_cmake()), "-S", str(SOURCES), "-B", str(build_dir), "-DCMAKE_BUILD_TYPE=Release"]
    if (ninja := find_tool("ninja")) and not (build_dir / "Makefile").exists():
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    if host_only:
        return [*command, "-DINNERQ_CUDA=OFF"]
    nvcc = require_nvcc()
    chosen = ";".join(str(number) for number in choose_architectures(architectures, nvcc))
    command += ["-DINNERQ_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={chosen}"]
    if tensorrt_include is not None:
        if not (tensorrt_include / "NvInfer.h").is_file():
            raise ConfigError(
                "--tensorrt-include",
                expected="a folder with NvInfer.h",
                got=tensorrt_include,
                fix="name it, or leave it out",
            )
        command.append(f"-DTENSORRT_INCLUDE_DIR={tensorrt_include.resolve()}")
    return command


def _run(command: list[str], log: Path, step: Step) -> None:
    """Run to the end with progress; whatever stops us (Ctrl-C too) stops the compilers with us."""
    with log.open("a") as record:
        record.write(" ".join(command) + "\n")
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                record.write(line)
                if (done := parse_progress(line)) is not None:
                    step.advance(*done)
            code = process.wait()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if code != 0:
        raise _failure(command, log, code)


def _failure(command: list[str], log: Path, code: int) -> UserError:
    lines = log.read_text().splitlines()
    shown = first_mistake(lines, len(lines) - 5, after=1)  # behind the command itself
    stage = "compiling" if "--build" in command else "configuring"
    return UserError(f"{stage} the kernels failed (exit code {code})", got=shown, fix=f"the whole log: {log}")
