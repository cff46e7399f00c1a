"""build_engine: what lies in the folder afterwards, and models that it refuses."""

import dataclasses
import json

import onnx
import pytest

from innerq_export.artifacts import Checkpoint, WeightFile
from innerq_export.engine import build_engine, default_profiles, read_manifest
from innerq_export.errors import ConfigError, RewriteError
from tests.engine.toy import CACHE, SHAPE, toy_onnx

PROFILES = default_profiles(SHAPE, CACHE, 2, 256)


def build(model, folder, **more):
    return build_engine(model, folder, "onnxruntime", PROFILES, **more)


def test_the_manifest_says_what_it_is_and_what_made_it(tmp_path):
    weights = (WeightFile("model.safetensors", "linked", 5, ""),)
    model = dataclasses.replace(toy_onnx(tmp_path / "model.onnx"), weights=weights)
    engine = build(model, tmp_path)
    manifest = read_manifest(tmp_path)
    assert engine.manifest == manifest.to_dict()
    assert (manifest.cache, manifest.model, manifest.weights) == (CACHE, SHAPE, weights)
    assert (manifest.max_batch, manifest.max_context) == (2, 256)
    assert {"python", "onnxruntime", "innerq-export"} <= set(manifest.versions)
    assert manifest.ready is False
    assert manifest.parity is None


def test_config_and_tokenizer_come_from_the_checkpoint(tmp_path):
    source, folder = tmp_path / "source", tmp_path / "engine"
    source.mkdir()
    folder.mkdir()
    for name in ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors"):
        (source / name).write_text(json.dumps({"file": name}))
    checkpoint = Checkpoint("my/model", source, {}, {}, (source / "tokenizer.json",), "digest", ("noise",))
    build(toy_onnx(folder / "model.onnx"), folder, checkpoint=checkpoint)
    manifest = read_manifest(folder)
    assert set(manifest.files) == {"model.onnx", "config.json", "generation_config.json", "tokenizer.json"}
    assert (manifest.source, manifest.source_digest, manifest.notes) == ("my/model", "digest", ("noise",))
    assert (folder / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_a_model_that_onnx_runtime_cannot_load_is_refused_with_its_reason(tmp_path):
    model = toy_onnx(tmp_path / "model.onnx")
    proto = onnx.load(model.path)
    proto.graph.node[0].op_type = "NoSuchOp"
    onnx.save(proto, model.path)
    with pytest.raises(RewriteError, match="NoSuchOp"):
        build(model, tmp_path)


def test_a_model_elsewhere_and_the_plugin_lowering_are_refused(tmp_path):
    model = toy_onnx(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="outside the engine folder"):
        build(model, tmp_path / "engine")
    with pytest.raises(ConfigError, match="native lowering"):
        build(dataclasses.replace(model, lowering="plugin"), tmp_path)
