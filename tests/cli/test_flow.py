"""build, run, inspect and parity on folders that `save_pretrained` wrote, as a user calls them."""

import json

import pytest
from click.testing import CliRunner

from innerq_export.checkpoint.demo import PROMPT
from innerq_export.cli.main import cli
from innerq_export.engine import read_manifest, seal
from innerq_export.engine.folder import write_manifest
from innerq_export.errors import ConfigError, ParityError
from tests.models import tiny_llama

LAYOUTS = {
    "grouped heads, tied, sharded": dict(shard_size="100KB"),
    "one KV head per head, untied, bf16": dict(num_key_value_heads=4, tie_word_embeddings=False, dtype="bfloat16"),
}


def call(*words: object, **settings: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False, **settings)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module", params=LAYOUTS)
def engine(request, tmp_path_factory):
    model = tiny_llama(tmp_path_factory.mktemp("model"), **LAYOUTS[request.param])
    folder = tmp_path_factory.mktemp("engines") / "tiny"
    call("build", model, "--output", folder, "--backend", "onnxruntime", "--format", "json")
    return folder


def test_a_saved_checkpoint_becomes_a_ready_engine(engine):
    shown = json.loads(call("inspect", engine, "--format", "json"))
    assert shown["ready"] is True
    assert shown["damage"] is None
    assert shown["kv"]["ratio"] == pytest.approx(16 / 3.5)
    names = set(shown["manifest"]["files"])
    assert {"model.onnx", "parity.json", "config.json", "tokenizer.json"} <= names
    assert json.loads((engine / "parity.json").read_text())["passed"] is True


def test_greedy_text_is_the_same_alone_and_in_a_batch(engine):
    words = ("run", engine, "--max-new-tokens", 24, "--ignore-eos", "--format", "json")
    alone = json.loads(call(*words, "-p", "quantised"))["results"][0]["tokens"]
    both = json.loads(call(*words, "-p", "a longer companion of it", "-p", "quantised"))["results"]
    assert len(alone) == 24
    assert both[1]["tokens"] == alone


def test_text_streams_and_figures_go_elsewhere(engine):
    result = CliRunner().invoke(cli, ["run", str(engine), "--max-new-tokens", "8"], input="from stdin")
    assert result.exit_code == 0
    assert "tokens/s" in result.stderr
    assert "tokens/s" not in result.stdout


@pytest.mark.parametrize("engine", list(LAYOUTS)[:1], indirect=True)
def test_what_has_no_effect_is_told(engine):
    words = ["run", str(engine), "-p", "x", "--max-new-tokens", "1", "--top-k", "3"]
    greedy, drawn = (CliRunner().invoke(cli, [*words, *more]) for more in ([], ["--temperature", "1"]))
    assert "change nothing" in greedy.stderr and "change nothing" not in drawn.stderr


@pytest.mark.parametrize("engine", list(LAYOUTS)[:1], indirect=True)
def test_inspect_names_the_limits_of_the_backends_that_are_there(engine):
    manifest = read_manifest(engine)
    assert f"context {manifest.model.max_positions:,}, any batch\n" in call("inspect", engine)
    both = manifest.backends | {"tensorrt-rtx": manifest.backends["onnxruntime"]}
    write_manifest(engine, manifest.replace(backends=both, max_batch=3))
    assert f"batch 3, context {manifest.max_context:,} (ONNX Runtime:" in call("inspect", engine)
    write_manifest(engine, manifest)


@pytest.mark.parametrize("engine", list(LAYOUTS)[:1], indirect=True)
def test_a_prompt_that_is_not_utf8_is_refused(engine):
    result = CliRunner().invoke(cli, ["run", str(engine)], input=b"caf\xe9")
    assert isinstance(result.exception, ConfigError)
    assert "not UTF-8" in str(result.exception) and "xe9" in str(result.exception)


def test_on_a_terminal_an_example_is_continued(engine, monkeypatch):
    monkeypatch.setattr("innerq_export.cli.run._on_a_terminal", lambda: True)
    words = ["run", str(engine), "--max-new-tokens", "8", "--format", "json"]
    unasked, asked = (CliRunner().invoke(cli, [*words, *more]) for more in ([], ["--prompt", PROMPT]))
    assert PROMPT in unasked.stderr
    assert json.loads(unasked.stdout)["results"] == json.loads(asked.stdout)["results"]


@pytest.mark.parametrize("engine", list(LAYOUTS)[:1], indirect=True)
def test_an_engine_that_is_not_ready_is_refused_unless_told(engine):
    seal(engine, ready=False, parity=None)
    with pytest.raises(ParityError, match="innerq-export parity"):
        CliRunner().invoke(cli, ["run", str(engine), "-p", "x"], catch_exceptions=False)
    call("run", engine, "-p", "x", "--max-new-tokens", 2, "--allow-unready")
    assert "ok" in call("parity", engine)
    call("run", engine, "-p", "x", "--max-new-tokens", 2)
