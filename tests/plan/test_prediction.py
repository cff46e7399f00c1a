"""The bar: what was planned for the demo model is within 15% of what its build then took, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from innerq_export.engine import read_manifest
from innerq_export.plan import Plan
from innerq_export.plan.history import read_history

BAR = 0.15


@pytest.fixture(scope="module")
def built(tmp_path_factory, cache_folder):
    """Plan and build the demo model on the command line; return the plan and the engine folder."""
    place = tmp_path_factory.mktemp("built")
    environment = os.environ | {"INNERQ_EXPORT_CACHE": str(cache_folder)}

    def call(*words):
        command = [sys.executable, "-m", "innerq_export.cli.main", *map(str, words)]
        subprocess.run(command, check=True, env=environment, capture_output=True)

    call("plan", "llama", "--output", place / "engine", "--save", place / "plan.json")
    call("build", "--plan", place / "plan.json")
    return Plan.from_json((place / "plan.json").read_text(), "plan.json"), place / "engine"


@pytest.mark.slow
def test_memory_of_every_phase(built):
    if sys.platform != "linux":
        pytest.skip("peaks come from /proc")
    planned = {phase.name: phase.memory for phase in built[0].phases}
    measured = {name: peak for name, peak in read_history()[-1].peak_bytes.items() if name in planned}
    assert measured.keys() == planned.keys()
    assert planned == pytest.approx(measured, rel=BAR)


@pytest.mark.slow
def test_disk(built):
    plan, folder = built
    entries = read_manifest(folder).files
    own = sum(path.stat().st_size for path in Path(folder).iterdir() if path.stat().st_nlink == 1)
    assert plan.engine_bytes == pytest.approx(own, rel=BAR)
    if plan.plan_bytes:
        assert plan.plan_bytes == pytest.approx(entries["model.engine"].bytes, rel=BAR)
    assert plan.weight_bytes == pytest.approx(entries["model.safetensors"].bytes, rel=BAR)


@pytest.mark.slow
def test_the_next_plan_knows_how_long_it_takes(built, plan):
    seconds = {phase.name: phase.seconds for phase in plan().phases}
    assert seconds == {name: read_history()[-1].seconds[name] for name in seconds}
