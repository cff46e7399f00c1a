"""Before an engine is loaded: whole, ready, and of versions that fit. Each refusal shows both sides and the fix."""

import shutil
import sys

import pytest

from innerq_export.engine import read_manifest, seal
from innerq_export.engine.card import Card
from innerq_export.engine.folder import write_manifest
from innerq_export.errors import ConfigError, EnvironmentMismatchError, ParityError, UserError
from innerq_export.runtime import OnnxRuntimeSession, open_session, preflight
from innerq_export.runtime.checks import check_card
from tests.engine.toy import toy_engine
from tests.runtime.plan_folder import PLUGIN, pretend, with_plan


@pytest.fixture
def folder(tmp_path):
    return toy_engine(tmp_path / "engine")


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    place = tmp_path_factory.mktemp("plans")
    source = toy_engine(place / "toy")
    names = ("tensorrt", "tensorrt-rtx")
    return {name: with_plan(source, place / name, name, source / "model.onnx", 256) for name in names}


def built_with(folder, backend, **versions):
    manifest = read_manifest(folder)
    record = {"files": [], "versions": versions, "profiles": []}
    write_manifest(folder, manifest.replace(backends={**manifest.backends, backend: record}))


def test_a_ready_engine_passes(folder):
    assert preflight(folder).ready


def test_an_engine_that_parity_has_not_passed_is_refused_unless_asked_for(tmp_path):
    folder = toy_engine(tmp_path / "engine", ready=False)
    with pytest.raises(ParityError, match=r"parity was never run(.|\n)*innerq-export parity"):
        preflight(folder)
    seal(folder, ready=False, parity={"summary": "layer 3, head 1"})
    with pytest.raises(ParityError, match="parity failed: layer 3, head 1"):
        OnnxRuntimeSession(folder)
    assert OnnxRuntimeSession(folder, allow_unready=True).decode([1]).any()


@pytest.mark.parametrize(
    ("backend", "package", "built", "here", "fits"),
    [
        ("onnxruntime", "onnxruntime", "1.31.1", "1.31.0", True),
        ("onnxruntime", "onnxruntime", "1.31.1", "1.40.0", True),
        ("onnxruntime", "onnxruntime", "1.31.1", "1.30.2", False),
        ("tensorrt-rtx", "tensorrt-rtx", "1.7.1.116", "1.7.2.3", True),
        ("tensorrt-rtx", "tensorrt-rtx", "1.7.1.116", "1.8.0.1", False),
        ("tensorrt-rtx", "tensorrt-rtx", "1.7.1.116", "1.6.0.1", False),
    ],
)
def test_versions(folder, monkeypatch, backend, package, built, here, fits):
    built_with(folder, backend, **{package: built})
    monkeypatch.setattr("innerq_export.runtime.checks.version_of", lambda name: here)
    if fits:
        assert preflight(folder, backend)
        return
    with pytest.raises(EnvironmentMismatchError) as caught:
        preflight(folder, backend)
    assert f"expected: {package} {built}" in str(caught.value)
    assert f"got:      {package} {here}" in str(caught.value)
    assert "innerq-export build" in str(caught.value)


def test_a_missing_package_says_what_to_install(folder, monkeypatch):
    built_with(folder, "tensorrt-rtx", **{"tensorrt-rtx": "1.7.1"})
    monkeypatch.setattr("innerq_export.runtime.checks.version_of", lambda name: None)
    with pytest.raises(EnvironmentMismatchError, match=r"is not installed(.|\n)*pip install"):
        preflight(folder, "tensorrt-rtx")


def test_a_backend_that_was_not_built_is_named(folder):
    with pytest.raises(UserError, match=r"not built for backend 'tensorrt'(.|\n)*--backend tensorrt"):
        preflight(folder, "tensorrt")


def test_a_damaged_model_is_never_loaded(folder):
    (folder / "model.onnx").write_bytes(b"\0" * (folder / "model.onnx").stat().st_size)
    with pytest.raises(UserError, match="is not the file that was built"):
        OnnxRuntimeSession(folder)


@pytest.mark.parametrize(
    ("backend", "card", "told"),
    [
        ("tensorrt", Card("a card", "8.9", "13.0"), None),
        (
            "tensorrt",
            Card("NVIDIA H200", "9.0", "13.0"),
            r"8\.9(.|\n)*H200, compute capability 9\.0(.|\n)*export build",
        ),
        ("tensorrt", None, r"8\.9(.|\n)*no NVIDIA card(.|\n)*run .* --backend onnxruntime"),
        ("tensorrt-rtx", Card("a card", "8.6", "13.0"), None),
        ("tensorrt-rtx", Card("NVIDIA H200", "9.0", "13.0"), r"8\.6 or 8\.9(.|\n)*H200"),
    ],
)
def test_the_card(plans, monkeypatch, backend, card, told):
    pretend(monkeypatch, card)
    folder = plans[backend]
    manifest = preflight(folder, backend)
    if told is None:
        check_card(manifest, folder, backend)
        return
    with pytest.raises(EnvironmentMismatchError, match=told):
        check_card(manifest, folder, backend)
    with pytest.raises(EnvironmentMismatchError, match=told):
        open_session(folder, backend)


def test_another_tensorrt_shows_both_versions_before_the_plan_is_touched(plans, monkeypatch):
    pretend(monkeypatch, tensorrt="10.16.1")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        EnvironmentMismatchError, match=r"tensorrt 11\.4\.0(.|\n)*tensorrt 10\.16\.1(.|\n)*export build"
    ):
        open_session(plans["tensorrt"], "tensorrt")


def test_a_plugin_of_another_contract_is_refused(plans, tmp_path, monkeypatch):
    pretend(monkeypatch)
    folder = shutil.copytree(plans["tensorrt"], tmp_path / "engine")
    manifest = read_manifest(folder)
    record = dict(manifest.backends["tensorrt"])
    record["plugin"] = PLUGIN | {"spec_version": 2}
    write_manifest(folder, manifest.replace(backends={**manifest.backends, "tensorrt": record}))
    with pytest.raises(EnvironmentMismatchError, match=r"spec version 1(.|\n)*spec version 2(.|\n)*plugin build"):
        open_session(folder, "tensorrt")


def test_a_plugin_library_that_was_exchanged_is_refused(plans, tmp_path, monkeypatch):
    pretend(monkeypatch)
    folder = shutil.copytree(plans["tensorrt"], tmp_path / "engine")
    (folder / PLUGIN["file"]).write_bytes(b"LIBRARY")
    with pytest.raises(UserError, match=r"libinnerq_trt\.so is not the file that was built(.|\n)*sha256"):
        open_session(folder, "tensorrt")


def test_a_broken_record_is_a_users_error(plans, tmp_path, monkeypatch):
    pretend(monkeypatch)
    folder = shutil.copytree(plans["tensorrt"], tmp_path / "engine")
    manifest = read_manifest(folder)
    for change in ({"plugin": "libinnerq_trt.so"}, {"card": []}, {"profiles": [{"name": "decode"}]}, {"extra": 1}):
        record = manifest.backends["tensorrt"] | change
        write_manifest(folder, manifest.replace(backends={**manifest.backends, "tensorrt": record}))
        with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
            preflight(folder, "tensorrt")


def test_a_backend_that_nobody_knows_is_named(plans):
    with pytest.raises(ConfigError, match="did you mean 'tensorrt'"):
        open_session(plans["tensorrt"], "tensort")
