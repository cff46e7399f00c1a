"""The speed tests that the InnerQ paper's authors publish: programs the user has built, run and read.

A folder holds any number of executables; each prints lines such as `QK^T,N:32768,int3_sym_headdim,Latency:47.1`
(product, tokens, kernel, microseconds). They measure 32/32 heads of 128, without softmax, over data that may stay in
L2, so they stand beside our figures as what they are and enter no ratio.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from innerq_export.errors import ConfigError

_LINE = re.compile(r"^(?P<product>[^,]+),N:(?P<tokens>\d+),(?P<kernel>[^,]+),Latency:(?P<us>[0-9.]+)\s*$")
TIMEOUT_SECONDS = 60


@dataclass(frozen=True)
class PaperTiming:
    """One kernel of the paper: `product` is "QK^T" or "AV"."""

    product: str
    tokens: int
    kernel: str
    us: float


def run_folder(folder: Path) -> list[PaperTiming]:
    """Run every executable of `folder`; ConfigError where there is none or one prints no timing."""
    programs = sorted(path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK))
    if not programs:
        raise ConfigError(
            f"no programs in {folder}",
            expected="executables built from the paper's speed tests",
            fix="build them as their README says, for this card (-arch=sm_90), one per number of tokens",
        )
    return [timing for program in programs for timing in _run(program)]


def parse(text: str) -> list[PaperTiming]:
    """Return the timings in a program's output; other lines are ignored."""
    found = (_LINE.match(line) for line in text.splitlines())
    return [PaperTiming(m["product"], int(m["tokens"]), m["kernel"], float(m["us"])) for m in found if m]


def _run(program: Path) -> list[PaperTiming]:
    result = subprocess.run(
        [str(program.resolve())], capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )
    timings = parse(result.stdout)
    if result.returncode or not timings:
        said = (result.stderr or result.stdout).strip()[-300:]
        raise ConfigError(
            f"{program} printed no timing",
            expected="lines '...,N:...,...,Latency:...'",
            got=said,
            fix="build it anew from the paper's sources",
        )
    return timings
