"""A real SIGINT to a real build: the signal arrives while TensorRT's C++ runs."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from innerq_export.engine import build_engine, default_profiles, staging
from tests.engine.toy import CACHE, SHAPE, toy_onnx

ROOT = Path(__file__).resolve().parents[2]


class SlowProgress:
    """Makes the toy's build last long enough to be interrupted, and says once that it runs."""

    said = False

    @contextmanager
    def stage(self, name):
        yield self

    def advance(self, fraction, note=""):
        if fraction > 0 and not self.said:
            self.said = True
            print("building", flush=True)
        time.sleep(0.05)


def test_control_c_ends_the_build_and_leaves_nothing(tmp_path):
    pytest.importorskip("tensorrt_rtx")
    command = [sys.executable, "-m", "tests.engine.test_control_c", str(tmp_path / "engine")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == b"building\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in stderr
    assert b"finished" not in stderr
    assert process.returncode == -signal.SIGINT
    assert [name for name in os.listdir(tmp_path) if not name.endswith(".lock")] == []


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started with it ignored
    with staging(Path(sys.argv[1])) as place:
        toy, profiles = toy_onnx(place / "model.onnx"), default_profiles(SHAPE, CACHE, 2, 256)
        build_engine(toy, place, "tensorrt-rtx", profiles, SlowProgress())
    print("finished", file=sys.stderr)
