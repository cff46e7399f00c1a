"""`innerq-export plan` and `build --plan`, as a user calls them."""

import json

import pytest
from click.testing import CliRunner

from innerq_export import pipeline
from innerq_export.cli.main import cli
from innerq_export.errors import ConfigError, OutOfMemoryError
from innerq_export.plan import plan as plan_module


def call(*words, code=0):
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False, standalone_mode=False)
    assert (result.return_value or 0) == code, result.output
    return result.stdout


class AskedError(Exception):
    """Carries the request that reached the pipeline."""


@pytest.fixture
def requests(monkeypatch):
    def record(request, progress):
        raise AskedError(request)

    monkeypatch.setattr(pipeline, "build", record)


def test_a_plan_in_words_and_in_json():
    text = call("plan", "llama", "--card", "rtx-4090", "--backend", "onnxruntime")
    assert "rtx-4090 with 25.23 GB: up to 2,048 tokens at batch 8" in text
    assert "KV per token   448 bytes; fp16 2,048, fp8 1,024" in text
    shown = json.loads(call("plan", "llama", "--backend", "onnxruntime", "--memory", "1G", "--format", "json"))
    assert shown["fit"]["memory"] == 1 << 30
    assert shown["problems"] == []


def test_the_exit_code_is_the_builds():
    assert "fix: --backend tensorrt" in call("plan", "llama", "--backend", "tensorrt-rtx", "--card", "h100", code=4)
    said = call("plan", "llama", "--backend", "onnxruntime", "--memory", "700M", code=5)
    assert "--max-batch" in said


def test_a_saved_plan_is_what_is_built(tmp_path, requests):
    words = ("--preset", "small", "--max-batch", 2, "--max-context", "1K", "--dtype", "float32", "--parity", "off")
    file = tmp_path / "plan.json"
    call("plan", "llama", "--backend", "onnxruntime", *words, "-o", tmp_path / "engine", "--save", file)
    with pytest.raises(AskedError) as planned:
        call("build", "--plan", file)
    with pytest.raises(AskedError) as told:
        call("build", "llama", "--backend", "onnxruntime", *words, "-o", tmp_path / "engine")
    assert planned.value.args == told.value.args


def test_a_plan_and_an_option_that_it_decides_exclude_each_other(tmp_path, requests):
    file = tmp_path / "plan.json"
    call("plan", "llama", "--backend", "onnxruntime", "--save", file)
    result = CliRunner().invoke(cli, ["build", "--plan", str(file), "--max-batch", "2"])
    assert result.exit_code == 2
    assert "--plan decides max_batch" in result.output
    with pytest.raises(ConfigError, match="cannot be read"):
        call("build", "--plan", tmp_path / "absent.json")


def test_foreseen_lack_of_memory_stops_the_build_before_it_starts(tmp_path, requests, monkeypatch):
    monkeypatch.setattr(plan_module, "available_memory", lambda: 1 << 20)
    with pytest.raises(OutOfMemoryError, match="foreseen") as stopped:
        call("build", "llama", "-o", tmp_path / "engine", "--backend", "onnxruntime")
    assert "--ignore-memory" in str(stopped.value)
    assert not (tmp_path / "engine").exists()
    with pytest.raises(AskedError):
        call("build", "llama", "-o", tmp_path / "engine", "--backend", "onnxruntime", "--ignore-memory")
