"""Folded key normalisation from the command line to a proven engine, and faults in it shown to parity."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from innerq_export.checkpoint import open_checkpoint
from innerq_export.checkpoint.key_norm import read_key_norm
from innerq_export.cli.main import cli
from innerq_export.engine import read_manifest
from innerq_export.engine.manifest import rebuild_command
from innerq_export.errors import ConfigError, UserError
from innerq_export.folding import with_key_norm
from innerq_export.graph import bind
from innerq_export.parity import check_engine
from innerq_export.parity.cases import prompts_case
from innerq_export.pipeline import BuildRequest, build, source_of
from innerq_export.progress import Silent
from innerq_export.runtime import OnnxRuntimeSession
from innerq_export.spec import CacheConfig
from tests.models import tiny_llama

CACHE = CacheConfig(key_norm="folded", sink=4, recent=12)
CASES = (prompts_case(90, 20, decode=2),)
TEXT = "Most lines were dull. Coal, timber, oranges; two pianos. " * 20


def call(*words: object) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model, a text, and what `calibrate` made of them."""
    folder = tmp_path_factory.mktemp("folding")
    tiny_llama(folder / "model", attention_bias=True)
    (folder / "text.txt").write_text(TEXT)
    call("calibrate", folder / "model", "--text", folder / "text.txt", "-o", folder / "lambda", "--sink", 4)
    return folder


@pytest.fixture(scope="module")
def engine(place) -> Path:
    words = ("--backend", "onnxruntime", "--parity", "off", "--cache", "sink=4", "--cache", "recent=12")
    norm = ("--key-norm", "folded", "--key-norm-file", place / "lambda")
    call("build", place / "model", "--output", place / "engine", *words, *norm)
    return place / "engine"


def report_of(engine: Path):
    return check_engine(engine, source_of(engine), cases=CASES)


def test_a_folded_engine_passes_parity_with_the_checkpoint_as_it_is(engine):
    report = report_of(engine)
    assert report.passed, report.text()
    passed = {rung.name for rung in report.rungs if rung.status == "passed"}
    assert {"cache", "attention", "keys and values", "logits", "tokens", "full precision"} <= passed


def test_its_folder_says_what_was_folded(engine, place):
    manifest = read_manifest(engine)
    assert manifest.cache == CACHE
    assert "key_norm.safetensors" in manifest.files
    assert "key normalisation folded into the weights, calibrated on 1," in manifest.notes[-1]
    shown = json.loads(call("inspect", engine, "--format", "json"))
    assert shown["manifest"]["cache"]["key_norm"] == "folded"
    assert re.search(r"key norm +folded \(it is in the weights", call("inspect", engine))
    kept, given = read_key_norm(engine / "key_norm.safetensors"), read_key_norm(place / "lambda")
    np.testing.assert_array_equal(kept.lambda_LHkvD, given.lambda_LHkvD)
    assert f"--key-norm-file {engine / 'key_norm.safetensors'}" in rebuild_command(manifest, engine)


def test_only_queries_and_keys_were_written_anew(engine):
    files = {file.name: file for file in read_manifest(engine).weights}
    assert files["model.safetensors"].how == "linked"
    assert files["model.onnx.data"].nbytes < files["model.safetensors"].nbytes / 3


def test_the_cache_keeps_lambda_one(engine):
    session = OnnxRuntimeSession(engine, allow_unready=True)
    session.prefill([list(range(100))])
    for layer in range(2):
        assert session.cache(layer)["key_codes"].any()
        assert (session.cache(layer)["key_norm"] == 1).all()


def test_a_text_makes_the_lambda_of_the_file(engine, place, tmp_path):
    request = BuildRequest(
        str(place / "model"), tmp_path / "engine", CACHE, "onnxruntime", key_norm_text=place / "text.txt", parity="off"
    )
    assert build(request).manifest["source_digest"] == read_manifest(engine).source_digest


FAULTS = {
    "keys are not divided": ("k_proj", lambda factor_R: np.ones_like(factor_R), "keys and values"),
    "a factor for the next channel": ("k_proj", lambda factor_R: np.roll(factor_R, 1), "keys and values"),
    "queries are not multiplied": ("q_proj", lambda factor_R: np.ones_like(factor_R), "keys and values"),
    "the lambda of the other KV head": ("q_proj", lambda factor_R: np.roll(factor_R, 128), "keys and values"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_folding_fails_parity(fault, place, tmp_path, monkeypatch):
    which, change, rung = FAULTS[fault]
    right = bind.ScaledTensor
    monkeypatch.setattr(
        bind, "ScaledTensor", lambda ref, dtype, by: right(ref, dtype, change(by) if which in ref.name else by)
    )
    request = BuildRequest(
        str(place / "model"), tmp_path / "engine", CACHE, "onnxruntime", key_norm_file=place / "lambda", parity="off"
    )
    build(request)
    finding = report_of(tmp_path / "engine").finding
    assert finding is not None
    assert finding.rung == rung


@pytest.mark.parametrize(
    ("key_norm", "named", "match"),
    [
        ("folded", {}, r"'folded' with no lambda[\s\S]*fix: .*--key-norm-text"),
        ("prefill", {"key_norm_file": "lambda"}, r"'prefill' with key_norm_file[\s\S]*neither"),
        ("folded", {"key_norm_file": "lambda", "key_norm_text": "text.txt"}, "key_norm_file and key_norm_text"),
        ("folded", {"key_norm_file": "text.txt"}, "truncated, or not a safetensors file"),
        ("folded", {"key_norm_file": "model/model.safetensors"}, "no file of key normalisation"),
        ("folded", {"key_norm_text": "lambda"}, "cannot be read as text"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_left(key_norm, named, match, place, tmp_path):
    files = {name: place / file for name, file in named.items()}
    with pytest.raises(UserError, match=match) as caught:
        build(BuildRequest(str(place / "model"), tmp_path / "engine", CACHE.replace(key_norm=key_norm), **files))
    assert caught.value.exit_code == 1
    assert not (tmp_path / "engine").exists()


def test_the_lambda_of_another_model_is_refused(place, tmp_path):
    other = tiny_llama(tmp_path / "other", seed=1, attention_bias=True)
    request = BuildRequest(str(other), tmp_path / "engine", CACHE, key_norm_file=place / "lambda")
    with pytest.raises(ConfigError, match=r"calibrated on other weights[\s\S]*innerq-export calibrate"):
        build(request)


def test_an_onnx_file_is_not_folded(tiny_graph, place, tmp_path):
    request = BuildRequest("mine.onnx", tmp_path / "engine", CACHE, key_norm_file=place / "lambda")
    with pytest.raises(ConfigError, match=r"not into those of an .onnx file[\s\S]*--key-norm none"):
        with_key_norm(tiny_graph, request, Silent())


def test_calibrate_says_what_it_wrote(place, tmp_path):
    words = ("calibrate", place / "model", "--text", place / "text.txt", "-o", tmp_path / "k", "--format", "json")
    said = json.loads(call(*words))
    norm = read_key_norm(tmp_path / "k")
    assert said["tokens"] == norm.tokens and said["lambda_max"] == float(norm.lambda_LHkvD.max())
    assert norm.checkpoint == open_checkpoint(str(place / "model")).digest
