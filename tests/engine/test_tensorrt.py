"""Backend `tensorrt` without TensorRT: the path it shares with TensorRT-RTX, and what it adds, on a stand-in."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from innerq_export.engine import BuildOptions, build_engine, default_profiles, read_manifest
from innerq_export.engine import tensorrt as tensorrt_module
from innerq_export.engine.backend_record import PluginRecord, record_of
from innerq_export.engine.card import Card
from innerq_export.engine.plugin_library import Stamp, stamp_of
from innerq_export.errors import ConfigError, EnvironmentMismatchError
from tests.engine.toy import CACHE, SHAPE, toy_onnx

PROFILES = default_profiles(SHAPE, CACHE, 2, 256)
SOURCE = """
struct build { unsigned bytes; int spec, cuda; const char *hash, *architectures; };
int innerq_build_info(struct build *b) {
    if (b->bytes != sizeof *b) return 1;
    b->spec = SPEC; b->cuda = 13000; b->hash = "0123456789ab"; b->architectures = "90"; return 0;
}
#ifdef CREATORS
void *getCreators(int *count) { *count = 0; return 0; }
#endif
"""
CARD = Card("a card", "9.0", "13.0")


def library(folder: Path, name="libinnerq_trt.so", spec=1, flags=("-DCREATORS",)) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "library.c").write_text(SOURCE)
    command = [compiler, "-shared", "-fPIC", f"-DSPEC={spec}", *flags, "-o", folder / name, folder / "library.c"]
    subprocess.run(command, check=True)
    return folder / name


def pretend(monkeypatch):
    """TensorRT is installed and there is a card, as far as the backend can tell."""
    monkeypatch.setattr(tensorrt_module, "version_of", lambda package: "11.4.0")
    monkeypatch.setattr(tensorrt_module, "first_card", lambda: CARD)


@pytest.fixture
def build(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "stand_in"))
    monkeypatch.setenv("STAND_IN_SEEN", str(tmp_path / "seen.json"))
    pretend(monkeypatch)
    (tmp_path / "engine").mkdir()

    def build(where="model.plugin.onnx", **options):
        place = tmp_path / "engine"
        model = toy_onnx(place / "model.onnx")
        plugin_model = dataclasses.replace(toy_onnx(place / where), lowering="plugin")
        chosen = BuildOptions(**options)
        return build_engine(model, place, "tensorrt", PROFILES, backend_model=plugin_model, options=chosen)

    return build


def test_plugin_aliases_and_profiles_reach_the_builder_and_the_manifest(build, tmp_path):
    plugin = library(tmp_path)
    build(plugin_library=plugin)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen == {"loaded": [str(plugin)], "aliased": True, "profiles": 2}
    manifest = read_manifest(tmp_path / "engine")
    assert set(manifest.files) == {
        "model.onnx",
        "model.plugin.onnx",
        "model.engine",
        "rank0.engine",
        "libinnerq_trt.so",
        "config.json",
    }
    assert ("past_key_codes_0", "present_key_codes_0") in manifest.aliases
    assert len(manifest.aliases) == 6
    record = record_of(manifest, "tensorrt", tmp_path / "engine")
    assert record.versions == {"tensorrt": "11.4.0"}
    digest = hashlib.sha256(plugin.read_bytes()).hexdigest()
    assert record.plugin == PluginRecord("libinnerq_trt.so", 1, "0123456789ab", "90", digest)
    assert record.card == CARD
    assert record.cards == ("9.0",)
    assert record.onnx == "model.plugin.onnx"
    assert record.profiles == PROFILES


def test_a_registry_that_refuses_the_library_is_an_environment_error(build, tmp_path):
    with pytest.raises(EnvironmentMismatchError, match=r"did not take(.|\n)*innerq-export plugin build"):
        build(plugin_library=library(tmp_path, "refused.so"))
    assert not (tmp_path / "engine" / "model.engine").exists()


@pytest.mark.parametrize("where", ["model.onnx", "../plugin.onnx"])
def test_the_plugin_lowering_lies_in_the_folder_beside_the_model(build, tmp_path, where):
    with pytest.raises(ConfigError, match=r"beside model\.onnx(.|\n)*model\.plugin\.onnx"):
        build(where, plugin_library=library(tmp_path))


def test_kernels_without_a_plugin_are_refused(tmp_path):
    with pytest.raises(EnvironmentMismatchError, match=r"no TensorRT plugin(.|\n)*--tensorrt-include"):
        stamp_of(library(tmp_path, "libinnerq.so", flags=()))


@pytest.mark.parametrize("named", [None, Path("nowhere/libinnerq_trt.so")])
def test_without_the_library_it_says_how_to_build_it(build, named):
    with pytest.raises(EnvironmentMismatchError, match="innerq-export plugin build"):
        build(plugin_library=named)


def test_the_native_lowering_is_refused(tmp_path, monkeypatch):
    pretend(monkeypatch)
    options = BuildOptions(plugin_library=library(tmp_path))
    (tmp_path / "engine").mkdir()
    with pytest.raises(ConfigError, match="needs the plugin lowering"):
        build_engine(
            toy_onnx(tmp_path / "engine" / "model.onnx"), tmp_path / "engine", "tensorrt", PROFILES, options=options
        )


def test_the_stamp_of_a_library(tmp_path):
    assert stamp_of(library(tmp_path)) == Stamp(1, "0123456789ab", "90")
    with pytest.raises(EnvironmentMismatchError, match=r"spec version 1(.|\n)*spec version 2"):
        stamp_of(library(tmp_path, "next.so", spec=2))


def test_a_file_that_is_no_library_is_refused(tmp_path):
    (tmp_path / "libinnerq_trt.so").write_bytes(b"no ELF")
    with pytest.raises(EnvironmentMismatchError, match="is no InnerQ plugin library"):
        stamp_of(tmp_path / "libinnerq_trt.so")
