"""scripts/measure_engine.py sees the builder that a command has started, and what it takes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts.loaded import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script reads /proc")
measure = load("measure_engine")
MB = 1 << 20
BUILDER = f"""
import time
held = bytearray(b"x") * (200 * {MB})
while time.process_time() < 0.5: pass
"""
COMMAND = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], *sys.argv[2:]])"


def watched(*words):
    return measure.watch(subprocess.Popen([sys.executable, "-c", COMMAND, BUILDER, *words]))


def test_the_builders_memory_and_time_are_seen():
    seen = watched("innerq_export.engine.worker")
    assert 0.2 < seen["anonymous_GB"] <= seen["resident_GB"] < 0.3
    assert 0.2 < seen["processor_seconds"] < 5


def test_other_children_are_not_counted():
    assert set(watched("another").values()) == {0.0}


def test_a_process_that_has_ended_says_nothing():
    assert measure.looked_at(Path("/proc/0")) == {}
    assert list(measure.builders(2**22 + 1)) == []


def test_a_build_that_fails_is_told_with_its_reason(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        measure.build(tmp_path / "nothing", tmp_path / "engine", [])
    assert "is no model" in caught.value.output or "there is no" in caught.value.output
