"""The builder in its own process: whatever happens to it is one clear error here, and no file is left behind."""

import pytest

from innerq_export.engine import builder_process, default_profiles
from innerq_export.engine.builder_process import run_builder
from innerq_export.engine.plan_request import PlanRequest
from innerq_export.errors import ConfigError, OutOfMemoryError, RewriteError
from tests.engine.toy import CACHE, SHAPE

PROFILES = default_profiles(SHAPE, CACHE, 2, 256)


class Step:
    def __init__(self, failure=None):
        self.reports, self.failure = [], failure

    def advance(self, fraction, note=""):
        self.reports.append(fraction)
        if self.failure:
            raise self.failure


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the worker with a module of this source in the place of TensorRT."""

    def run(source, step=None):
        (tmp_path / "pretended_trt.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        request = PlanRequest("pretended_trt", tmp_path / "model.onnx", tmp_path / "model.engine", PROFILES)
        return run_builder(request, step or Step())

    return run


def test_a_request_survives_the_journey(tmp_path):
    request = PlanRequest(
        "tensorrt", tmp_path / "m", tmp_path / "p", PROFILES, ("8.9",), tmp_path / "l", None, (tmp_path / "w",)
    )
    assert PlanRequest.from_json(request.to_json()) == request


def test_a_crash_is_an_error_with_its_last_words(run):
    with pytest.raises(RewriteError, match=r"ended without a plan(.|\n)*-6(.|\n)*last words"):
        run("import os, sys; print('last words', file=sys.stderr, flush=True); os.abort()")


def test_a_killed_builder_is_lack_of_memory(run):
    with pytest.raises(OutOfMemoryError, match="killed by the system") as caught:
        run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert caught.value.exit_code == 5


def test_an_error_of_the_builder_arrives_whole(run):
    with pytest.raises(ConfigError) as caught:
        run("from innerq_export.errors import *; raise ConfigError('what', expected=8.9, got='x', fix='mend')")
    assert str(caught.value) == "what\n  expected: 8.9\n  got:      x\n  fix:      mend"


def test_other_exceptions_end_with_their_traceback(run):
    with pytest.raises(RewriteError, match="ZeroDivisionError"):
        run("1 / 0")


def test_what_libraries_print_is_no_event(run):
    step = Step()
    event = """print('{"fraction": 0.5, "note": ""}', flush=True)"""
    digest = """print('{"sha256": "12ab"}', flush=True)"""
    assert run(f"print('[1, 2]'); print('{{broken'); {event}; {digest}; raise SystemExit(0)", step) == "12ab"
    assert step.reports == [0.5, 1.0]


def test_events_of_several_threads_do_not_mix(run):
    """`print` writes a text and the end of its line one after the other."""
    digest = """
from concurrent.futures import ThreadPoolExecutor
import sys
from innerq_export.engine import worker
sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda number: worker._say(sha256=f"{number:05d}", other="x" * 50), range(4000)))
worker._say(sha256="the last")
raise SystemExit(0)
"""
    step, seen = Step(), []
    with pytest.MonkeyPatch.context() as patch:
        real = builder_process._event
        patch.setattr(builder_process, "_event", lambda line: seen.append(real(line)) or seen[-1])
        assert run(digest, step) == "the last"
    assert sorted(event.get("sha256", "") for event in seen) == [*(f"{n:05d}" for n in range(4000)), "the last"]


def test_a_builder_that_leaves_in_silence_made_no_plan(run):
    with pytest.raises(RewriteError, match="ended without a plan"):
        run("raise SystemExit(0)")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_what_progress_raises_ends_the_builder_at_once(run, tmp_path, failure):
    """The pretended builder would work for a minute, after half of its plan is written."""
    source = f"""
from pathlib import Path
import time
Path({str(tmp_path)!r}, ".model.engine.new").write_text("half")
print('{{"fraction": 0.1, "note": ""}}', flush=True)
time.sleep(60)
"""
    with pytest.raises(failure):
        run(source, Step(failure()))
    assert not [path for path in tmp_path.iterdir() if "engine" in path.name]
