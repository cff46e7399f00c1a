"""Before an engine is loaded: whole, ready, and of versions that fit. Each refusal shows both sides and the fix."""

import pytest

from innerq_export.engine import read_manifest, seal
from innerq_export.engine.folder import write_manifest
from innerq_export.errors import EnvironmentMismatchError, ParityError, UserError
from innerq_export.runtime import OnnxRuntimeSession, preflight
from tests.engine.toy import toy_engine


@pytest.fixture
def folder(tmp_path):
    return toy_engine(tmp_path / "engine")


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
