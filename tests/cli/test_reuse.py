"""What `build` and `inspect` say of stages that were reused, and that such builds teach the plan nothing about time."""

import json

import pytest
from click.testing import CliRunner

from innerq_export.cli.main import cli
from innerq_export.plan.history import read_history
from tests.quick_build import STAGES, stand_in


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        yield


def call(*words):
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def words(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reuse") / "engine"
    command = ("build", tiny_checkpoint.folder, "--output", folder, "--backend", "tensorrt-rtx")
    assert "reused" not in call(*command, "--fresh").stderr
    return (*command, "--overwrite")


def test_build_names_what_it_reused_and_the_seconds_saved(words):
    said = call(*words).stderr
    assert "reused, unchanged: model.onnx, onnxruntime, tensorrt-rtx, export, parity" in said
    assert "s saved)" in said
    assert "exporting" not in said
    said = call(*words, "--parity", "full").stderr
    assert "reused, unchanged: model.onnx, onnxruntime, tensorrt-rtx, export (" in said


def test_json_has_every_stage(words):
    call(*words)
    shown = json.loads(call(*words, "--format", "json").stdout)
    assert {name for name, stage in shown["stages"].items() if stage["reused"]} == STAGES
    assert shown["seconds_saved"] == pytest.approx(
        sum(stage["seconds"] for stage in shown["stages"].values()), abs=0.01
    )
    fresh = json.loads(call(*words, "--fresh", "--format", "json").stdout)
    assert not any(stage["reused"] for stage in fresh["stages"].values())
    assert fresh["seconds_saved"] == 0


def test_inspect_shows_stages_and_what_was_rewritten(words):
    call(*words)
    shown = call("inspect", words[3]).stdout
    assert "parity 0.0 s (reused)" in shown or "parity 0.1 s (reused)" in shown
    assert "InnerQLayers 2" in shown


def test_history_has_only_builds_that_reused_nothing(words):
    before = len(read_history())
    call(*words)
    assert len(read_history()) == before
    call(*words, "--fresh")
    assert len(read_history()) == before + 1


def test_a_build_says_what_was_rewritten(words):
    assert "rewritten: 2 layers (InnerQLayers 2" in call(*words).stdout
