"""The speed tests that the InnerQ paper's authors publish: compiled for the card at hand, run, and read.

They are in the folder speedtest of github.com/mthcom/innerq; nothing of them is in this project. Each prints lines such
as `QK^T,N:32768,int3_sym_headdim,Latency:47.1` (product, tokens, kernel, microseconds), the one that quantises a
heading `N: 32 ...` and lines `3-Bit Symmetric Time: 2.5 us/iter`. They measure 32/32 heads of 128, without softmax,
over data that may stay in L2, so they stand beside our figures as what they are and enter no ratio.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from innerq_export.bench.peers import paper_build
from innerq_export.bench.peers.process import finish
from innerq_export.errors import ConfigError, UserError
from innerq_export.progress import Progress, Silent

_US = r"(?P<us>\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_PRODUCT = re.compile(rf"^(?P<product>[^,]+),N:(?P<tokens>\d+),(?P<kernel>[^,]+),Latency:{_US}\s*$")
_HEADING = re.compile(r"^N: (?P<tokens>\d+)\b")
_QUANTISE = re.compile(rf"^(?P<kernel>\S.*?) Time:\s+{_US} us/iter\s*$")
SOURCE = "https://github.com/mthcom/innerq"
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class PaperTiming:
    """One kernel of the paper: `product` is "QK^T", "AV" or "quantise"."""

    product: str
    tokens: int
    kernel: str
    us: float


@dataclass(frozen=True)
class PaperRun:
    """What a folder's programs said, and what they were made of and with."""

    timings: list[PaperTiming]
    made: str


def run_folder(folder: Path, architecture: int | None, progress: Progress | None = None) -> PaperRun:
    """Compile and run the .cu files of `folder` or its speedtest folder; without any, run its benchmark* programs.

    `architecture`: of the card, 90 for sm_90; None on a machine without one. Raises ConfigError for a folder with
    neither, UserError for a source or program that fails, and what `find_compiler` and `compile_all` raise.
    """
    progress = progress or Silent()
    if sources := paper_build.sources_of(_there(folder)):
        compiler = paper_build.find_compiler(architecture)
        programs = paper_build.compile_all(sources, compiler, progress)
        digest = paper_build.digest_of(sources)[:12]
        made = f"sm_{architecture}, nvcc {compiler.version}, sources {digest}"
    else:
        programs, made = _executables(folder), "programs built by the user"
    timings = []
    with progress.stage("running the paper's kernels") as step:
        for done, program in enumerate(programs):
            step.advance(done / len(programs), program.name)
            timings += _run(program)
    return PaperRun(timings, made)


def parse(text: str) -> list[PaperTiming]:
    """Return the timings in a program's output; other lines are ignored."""
    found, tokens = [], 0
    for line in text.splitlines():
        if m := _HEADING.match(line):
            tokens = int(m["tokens"])
        elif m := _PRODUCT.match(line):
            found.append(PaperTiming(m["product"], int(m["tokens"]), m["kernel"], float(m["us"])))
        elif m := _QUANTISE.match(line):
            found.append(PaperTiming("quantise", tokens, m["kernel"], float(m["us"])))
    return found


def _there(folder: Path) -> Path:
    if folder.is_dir():
        return folder
    raise ConfigError(
        f"--paper-kernels: there is no folder {folder}",
        expected="a checkout of the paper's code, or its folder speedtest",
        fix=f"git clone {SOURCE}, and name the new folder",
    )


def _executables(folder: Path) -> list[Path]:
    programs = sorted(path for path in folder.glob("benchmark*") if path.is_file() and os.access(path, os.X_OK))
    if not programs:
        raise ConfigError(
            f"--paper-kernels: nothing to compile or run in {folder}",
            expected="speedtest/*.cu or *.cu of the paper's code, or programs benchmark* built from them",
            fix=f"git clone {SOURCE}, and name the new folder",
        )
    return programs


def _run(program: Path) -> list[PaperTiming]:
    try:
        result = finish([str(program.resolve())], TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise _failure(f"{program} did not end", f"nothing after {TIMEOUT_SECONDS} s") from error
    except OSError as error:
        raise _failure(f"{program} cannot be run", error.strerror) from error
    said = (result.stderr or result.stdout).strip()[-300:]
    if result.returncode:
        raise _failure(f"{program} failed", f"status {result.returncode}: {said}")
    if not (timings := parse(result.stdout)):
        raise _failure(f"{program} printed no timing", said or "nothing")
    return timings


def _failure(what: str, got: str | None) -> UserError:
    expected = "lines '...,N:...,...,Latency:...' or '... Time: ... us/iter'"
    return UserError(what, expected=expected, got=got, fix="run it alone to see why, or leave --paper-kernels out")
