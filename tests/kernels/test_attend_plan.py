"""How decode attention splits its work, on the host: every block, window chunk and step is done exactly once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEADER = "innerq/attend_plan.cuh"
FAULTS = {
    "a block twice": ("return inner - (begun - 1)", "return inner + (x == 9) - (begun - 1)"),
    "a tail one short": ("tail = clamp_int(", "tail = -1 + clamp_int("),
    "a part one unit off": ("at_most(p, longer)", "at_most(p, longer - 1)"),
    "a part beyond the end": ("at_most(p, longer), total)", "at_most(p, longer), total + 1)"),
    "parts too small to pay": ("each(at_least(parts.divide(total), kLeastUnits))", "each(parts.divide(total))"),
    "a quotient not set right": ("quotient -= rest < 0;", ""),
    "a step cut in two": ("blocks_before(x) / kStep * kStep", "blocks_before(x)"),
    "a last block left out": ("x >= units ? blocks", "x > units ? blocks"),
    "a step of the wrong warp": ("rounds * without + member", "rounds * without + member + (over > 0)"),
    "a reciprocal without its one": ("/ d + 1)", "/ d)"),
}


def run_check(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the checks against `folder` (then the repository's headers) and run them."""
    compiler = shutil.which("g++") or pytest.skip("needs g++")
    program = folder / "check"
    source = ROOT / "tests/kernels/attend_plan_check.cpp"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", f"-I{folder}", f"-I{ROOT}/plugins/include", str(source), "-o", str(program)],
        check=True,
    )
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


def test_the_plan_holds(tmp_path):
    done = run_check(tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(tmp_path, fault):
    right, wrong = FAULTS[fault]
    text = (ROOT / "plugins/include" / HEADER).read_text()
    assert text.count(right) == 1
    (tmp_path / "innerq").mkdir()
    (tmp_path / HEADER).write_text(text.replace(right, wrong))
    assert run_check(tmp_path).returncode == 1
