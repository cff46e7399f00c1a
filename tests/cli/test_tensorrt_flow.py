"""`build --backend tensorrt` and `run` from end to end; only TensorRT itself is a stand-in."""

import hashlib
import json
import os
import shutil
import subprocess

import onnx
import pytest
from click.testing import CliRunner

from innerq_export.cli.main import cli
from innerq_export.engine import read_manifest
from innerq_export.engine import tensorrt as tensorrt_module
from innerq_export.engine.files import sha256_of
from innerq_export.integrations import resolve
from tests.models import tiny_llama
from tests.runtime.plan_folder import CARD, pretend, write_plan

BUILD_INFO = """
struct build { unsigned bytes; int spec, cuda; const char *hash, *architectures; };
int innerq_build_info(struct build *b) {
    b->spec = 1; b->cuda = 13000; b->hash = "0"; b->architectures = "89"; return 0;
}
void *getCreators(int *count) { *count = 0; return 0; }
"""


@pytest.fixture
def machine(monkeypatch):
    """TensorRT is here: its builder writes plans that the stand-in of its runtime reads."""

    def run_builder(request, step):
        write_plan(request.plan, request.model, request.profiles, aliased=True)
        return sha256_of(request.plan)

    pretend(monkeypatch)
    monkeypatch.setattr(tensorrt_module, "version_of", lambda package: "11.4.0")
    monkeypatch.setattr(tensorrt_module, "first_card", lambda: CARD)
    monkeypatch.setattr(tensorrt_module, "run_builder", run_builder)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """What `innerq-export plugin build` leaves in its folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("library")
    (folder / "library.c").write_text(BUILD_INFO)
    command = [compiler, "-shared", "-fPIC", "-o", folder / "libinnerq_trt.so", folder / "library.c"]
    subprocess.run(command, check=True)
    return folder / "libinnerq_trt.so"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model"))


def call(*words):
    result = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def build(checkpoint, folder, *words):
    chosen = ("--backend", "tensorrt", "--max-batch", 2, "--parity", "off")
    return call("build", checkpoint, "--output", folder, *chosen, "--copy-weights", "--format", "json", *words)


def test_the_folder_and_what_runs_from_it(machine, checkpoint, library, tmp_path, monkeypatch):
    monkeypatch.setenv(resolve.ENVIRONMENT, str(library))
    folder = tmp_path / "engine"
    build(checkpoint, folder)
    manifest = read_manifest(folder)
    assert {"model.plugin.onnx", "model.engine", "rank0.engine", "libinnerq_trt.so"} <= set(manifest.files)
    nodes = onnx.load(folder / "model.plugin.onnx", load_external_data=False).graph.node
    assert [node.op_type for node in nodes if node.domain == "innerq"] == ["InnerQAppend", "InnerQAttention"] * 2
    assert ("past_blocks_1", "present_blocks_1") in manifest.aliases
    assert [file.name for file in manifest.weights] == ["model.onnx.data"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["build_config"]["max_batch_size"]) == ("llama", 2)

    words = ("run", folder, "-p", "quantised", "-p", "once", "--max-new-tokens", 12, "--ignore-eos", "--allow-unready")
    results = [
        json.loads(call(*words, "--format", "json", "--backend", backend).stdout)["results"]
        for backend in ("tensorrt", "onnxruntime")
    ]
    for plan, native in zip(*results, strict=True):
        assert len(plan["tokens"]) == len(native["tokens"]) == 12
        assert plan["tokens"][:3] == native["tokens"][:3]
    pretend(monkeypatch, card=None)
    assert "tensorrt is passed over for onnxruntime: no NVIDIA card" in call(*words).stderr


def test_without_a_library_the_build_says_how_to_make_one_before_it_starts(machine, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv(resolve.ENVIRONMENT, str(tmp_path / "nowhere.so"))
    result = CliRunner().invoke(cli, ["build", str(checkpoint), "-o", str(tmp_path / "e"), "--backend", "tensorrt"])
    assert "innerq-export plugin build" in str(result.exception)
    assert not (tmp_path / "e").exists()


def test_float32_is_refused_before_the_export(machine, checkpoint, library, tmp_path, monkeypatch):
    monkeypatch.setenv(resolve.ENVIRONMENT, str(library))
    words = ["build", checkpoint, "-o", tmp_path / "e", "--backend", "tensorrt", "--dtype", "float32"]
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert "does not compute in float32" in str(result.exception)
    assert "--dtype float16" in str(result.exception)
    assert not (tmp_path / "e").exists()


def test_a_second_build_reuses_the_plan_until_the_library_changes(machine, checkpoint, library, tmp_path, monkeypatch):
    own = shutil.copy(library, tmp_path / library.name)
    monkeypatch.setenv(resolve.ENVIRONMENT, str(own))
    digest = hashlib.sha256(b"plan").hexdigest()
    monkeypatch.setattr(
        tensorrt_module, "run_builder", lambda request, step: request.plan.write_text("plan") and digest
    )

    def made(*words):
        stages = json.loads(build(checkpoint, tmp_path / "engine", "--overwrite", *words).stdout)["stages"]
        return {name for name, stage in stages.items() if not stage["reused"]}

    assert made() == {"export", "model.onnx", "model.plugin.onnx", "onnxruntime", "tensorrt"}
    first = read_manifest(tmp_path / "engine")
    assert made() == set()
    again = read_manifest(tmp_path / "engine")
    assert again.replace(created="", files={}) == first.replace(created="", files={})
    assert {name: entry.sha256 for name, entry in again.files.items()} == {
        name: entry.sha256 for name, entry in first.files.items()
    }
    with open(own, "ab") as stream:
        stream.write(b"\0")
    assert made() == {"tensorrt"}
    assert (tmp_path / "engine" / library.name).read_bytes() == own.read_bytes()
    assert made("--backend", "onnxruntime") == set()
    assert not {"model.engine", "rank0.engine", "model.plugin.onnx", library.name} & set(
        os.listdir(tmp_path / "engine")
    )
