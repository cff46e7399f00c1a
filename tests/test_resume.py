"""A second build does exactly what changed, whatever changed; one that was killed goes on where it stopped."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from innerq_export import parity
from innerq_export.checkpoint import open_checkpoint
from innerq_export.engine import BuildOptions, load_engine, read_manifest
from innerq_export.engine.stage_record import unfinished
from innerq_export.errors import ConfigError, ParityError, UserError
from innerq_export.spec import preset
from tests.quick_build import STAGES, Watched, made, stand_in

OF_THE_MODEL = STAGES | {"trace"}
OF_THE_PLAN = {"export", "tensorrt-rtx", "parity"}


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch)
        yield


@pytest.fixture(scope="module")
def model(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed") / "model"
    shutil.copytree(tiny_checkpoint.folder, folder)
    return folder


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built") / "engine"
    made(model, folder)
    return folder


@pytest.fixture
def engine(built, tmp_path):
    """A copy of the engine, so that each test starts from the same."""
    return shutil.copytree(built, tmp_path / "engine")


@contextmanager
def changed(path, change):
    """Rewrite a file in place with `change` of its bytes; afterwards it is as before, time included."""
    before, status = path.read_bytes(), path.stat()
    try:
        path.write_bytes(change(before))
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_version(monkeypatch, package):
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: real(name) + ".post9" * (name == package))


def config_with(**fields):
    return lambda text: json.dumps(json.loads(text) | fields).encode()


def test_nothing_changed(model, engine):
    before = {path.name: path.stat().st_ino for path in engine.iterdir() if not path.name.startswith((".", "manifest"))}
    report = json.loads((engine / "parity.json").read_text())
    assert made(model, engine, overwrite=True) == set()
    kept = {"model.onnx", "model.engine", "model.safetensors", "parity.json"}
    assert {name: (engine / name).stat().st_ino for name in kept} == {name: before[name] for name in kept}
    assert json.loads((engine / "parity.json").read_text()) == report
    load_engine(engine, full=True)


def test_tensorrt_rtx_compiles_once_unless_asked(model, built, tmp_path):
    made(model, tmp_path / "split", options=BuildOptions(split_profiles=True))
    names = [
        [profile["name"] for profile in read_manifest(folder).backends["tensorrt-rtx"]["profiles"]]
        for folder in (built, tmp_path / "split")
    ]
    assert names == [["any"], ["prefill", "decode"]]


def test_an_engine_is_still_not_replaced_unasked(model, engine):
    with pytest.raises(ConfigError, match="--overwrite"):
        made(model, engine)


def test_a_reused_engine_says_of_its_files_what_a_new_one_says(model, engine, tmp_path):
    made(model, engine, overwrite=True)
    made(model, tmp_path / "fresh", fresh=True)
    ours, new = read_manifest(engine), read_manifest(tmp_path / "fresh")
    assert {name: (entry.sha256, entry.linked) for name, entry in ours.files.items()} == {
        name: (entry.sha256, entry.linked) for name, entry in new.files.items()
    }
    assert ours.replace(created="", files={}) == new.replace(created="", files={})


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (dict(cache=preset("compact")), STAGES),
        (dict(logits="all"), STAGES),
        (dict(copy_weights=True), STAGES),
        (dict(dtype="float32"), STAGES | {"trace"}),
        (dict(max_batch=2), OF_THE_PLAN),
        (dict(max_context=256), OF_THE_PLAN),
        (dict(options=BuildOptions(("8.9",))), OF_THE_PLAN),
        (dict(options=BuildOptions(split_profiles=True)), OF_THE_PLAN),
        (dict(options=BuildOptions(strip_weights=True)), OF_THE_PLAN),
        (dict(parity="full"), {"parity"}),
        (dict(parity="off"), set()),
        (dict(fresh=True), STAGES | {"trace"}),
    ],
    ids=[
        "cache",
        "logits",
        "copy_weights",
        "dtype",
        "max_batch",
        "max_context",
        "options",
        "split_profiles",
        "strip_weights",
        "parity",
        "no_parity",
        "fresh",
    ],
)
def test_a_choice_makes_what_depends_on_it(model, engine, choices, expected):
    assert made(model, engine, overwrite=True, **choices) == expected


def test_calibration_is_a_stage_of_its_own(model, tmp_path):
    engine, text = tmp_path / "engine", tmp_path / "text.txt"
    text.write_text("Most lines were dull. Coal, timber, oranges; two pianos. " * 20)
    choices = dict(overwrite=True, key_norm_text=text)
    compact = preset("compact").replace(key_norm="folded")
    assert made(model, engine, **choices, cache=preset("balanced").replace(key_norm="folded")) == STAGES | {"calibrate"}
    norm = (engine / "key_norm.safetensors").read_bytes()
    assert made(model, engine, **choices, cache=compact) == STAGES
    assert made(model, engine, **choices, cache=compact) == set()
    assert (engine / "key_norm.safetensors").read_bytes() == norm
    text.write_text(text.read_text().upper())
    assert made(model, engine, **choices, cache=compact) == STAGES | {"calibrate"}
    assert (engine / "key_norm.safetensors").read_bytes() != norm


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ("torch", OF_THE_MODEL),
        ("transformers", OF_THE_MODEL),
        ("onnx", OF_THE_MODEL),
        ("tensorrt-rtx", OF_THE_PLAN),
        ("onnxruntime", {"onnxruntime", "parity"}),
    ],
)
def test_another_version_makes_what_it_takes_part_in(model, engine, monkeypatch, package, expected):
    other_version(monkeypatch, package)
    assert made(model, engine, overwrite=True) == expected


def test_another_version_of_ours_makes_everything(model, engine, monkeypatch):
    for module in ("engine.keys", "graph.store", "proof"):
        monkeypatch.setattr(f"innerq_export.{module}.code_digest", lambda: "another")
    assert made(model, engine, overwrite=True) == OF_THE_MODEL


@pytest.mark.parametrize("byte", [0, 20_000], ids=["the first", "one that the digest does not sample"])
def test_a_byte_of_the_weights_makes_everything_but_the_trace(model, tiny_checkpoint, engine, byte):
    tensor = tiny_checkpoint.tensors["model.embed_tokens.weight"]
    where = tensor.offset + byte

    def flip(weights):
        return weights[:where] + bytes([weights[where] ^ 1]) + weights[where + 1 :]

    digest = open_checkpoint(str(model)).digest
    with changed(model / "model.safetensors", flip):
        assert (open_checkpoint(str(model)).digest == digest) is (byte > 0)
        assert made(model, engine, overwrite=True) == STAGES


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("config.json", config_with(rms_norm_eps=1e-3), OF_THE_MODEL),
        ("tokenizer.json", lambda text: text + b" ", {"parity"}),
        ("generation_config.json", config_with(temperature=0.5), {"parity"}),
    ],
)
def test_another_file_of_the_checkpoint_makes_what_reads_it(model, engine, name, change, expected):
    with changed(model / name, change):
        assert made(model, engine, overwrite=True) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.onnx", {"export", "model.onnx"}),
        ("model.engine", {"export", "tensorrt-rtx"}),
        ("parity.json", {"parity"}),
    ],
)
def test_a_file_changed_in_the_engine_is_made_again_and_found_equal(model, engine, name, expected):
    before = (engine / name).read_bytes()
    (engine / name).write_bytes(before[:-1] + b"?")
    assert made(model, engine, overwrite=True) == expected
    assert (engine / name).read_bytes() == before


def test_damage_that_time_and_size_hide_is_mended_by_the_command_that_is_named(model, engine):
    status, before = (engine / "model.engine").stat(), (engine / "model.engine").read_bytes()
    (engine / "model.engine").write_bytes(before[:-1] + b"?")
    os.utime(engine / "model.engine", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(UserError, match="--overwrite --fresh"):
        load_engine(engine, full=True)
    made(model, engine, overwrite=True, fresh=True)
    load_engine(engine, full=True)


def run_until_killed(model, folder, stage):
    """Build in a child that SIGKILLs itself at the end of `stage`, before the stage is written down as done."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        made(model, folder, Watched(lambda name: name == stage and os.kill(os.getpid(), signal.SIGKILL)))
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("reading checkpoint", STAGES),
        ("reusing the traced graph", STAGES),
        ("rewriting for onnxruntime", STAGES),
        ("writing model.onnx", STAGES),
        ("rewriting for tensorrt-rtx", OF_THE_PLAN),
        ("building for tensorrt-rtx", OF_THE_PLAN),
        ("hashing the files", {"parity"}),
        ("parity", {"parity"}),
    ],
)
def test_killed_in_any_stage_the_same_command_goes_on(built, model, tmp_path, stage, expected):
    folder = tmp_path / "engine"
    assert run_until_killed(model, folder, stage)
    if stage == "parity":
        assert not read_manifest(folder).ready
    else:
        assert not folder.exists()
    assert made(model, folder) == expected
    load_engine(folder, full=True)
    assert {path.name for path in tmp_path.iterdir()} == {"engine", ".engine.lock"}


def test_other_builds_are_kept_out_until_parity_has_its_verdict(model, tmp_path):
    folder = tmp_path / "engine"
    code = "import sys, pathlib, innerq_export.engine.folder as f; f.exclusive(pathlib.Path(sys.argv[1])).__enter__()"
    command = [sys.executable, "-c", code, str(folder)]
    said = {}

    def try_too(stage):
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        said[stage] = "another build is writing" in result.stderr

    made(model, folder, Watched(lambda name: name in ("hashing the files", "parity") and try_too(name)))
    assert said == {"hashing the files": True, "parity": True}


def test_a_failed_verdict_is_not_reused(model, tmp_path, monkeypatch):
    folder = tmp_path / "engine"
    report = SimpleNamespace(passed=False, summary={"passed": False}, to_json=lambda: "{}", text=lambda: "wrong")
    with monkeypatch.context() as patch:
        patch.setattr(parity, "look_closely", lambda *_, **__: SimpleNamespace(report=report))
        with pytest.raises(ParityError, match="not ready"):
            made(model, folder)
    with pytest.raises(ConfigError, match="--overwrite"):
        made(model, folder)
    assert not read_manifest(folder).ready
    assert made(model, folder, overwrite=True) == {"parity"}


def test_another_request_does_not_replace_a_build_without_its_verdict(model, tmp_path):
    folder = tmp_path / "engine"
    assert run_until_killed(model, folder, "parity")
    with pytest.raises(ConfigError, match="--overwrite"):
        made(model, folder, max_batch=2)
    assert not unfinished(folder, "another")
