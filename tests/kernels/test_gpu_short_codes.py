"""Codes by two operations instead of a division: every pair of numbers that can meet, on the card."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.gpu
FOLDER = Path(__file__).parent
INCLUDE = FOLDER.parents[1] / "plugins" / "include"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    if shutil.which("nvcc") is None or not torch.cuda.is_available():
        pytest.skip("needs nvcc and a CUDA card")
    built = tmp_path_factory.mktemp("codes") / "check"
    command = ["nvcc", "-std=c++17", "-arch=native", f"-I{INCLUDE}", str(FOLDER / "short_codes_check.cu"), "-o", built]
    subprocess.run(command, check=True, timeout=120)
    return built


def output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_every_short_code_is_the_division_rounded(program):
    assert output_of(program) == "0 wrong, no error\n"


def test_the_check_sees_quotients_beyond_what_the_short_way_is_for(program):
    assert not output_of(program, "beyond").startswith("0 wrong")
