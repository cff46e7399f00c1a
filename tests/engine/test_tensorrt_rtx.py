"""NVIDIA's real parser and builder, without a GPU."""

import dataclasses
from contextlib import contextmanager

import onnx
import pytest

from innerq_export.artifacts import WeightFile
from innerq_export.engine import BuildOptions, build_engine, default_profiles, files, read_manifest, tensorrt_rtx
from innerq_export.engine.files import check_files, sha256_of
from innerq_export.errors import ConfigError, RewriteError
from tests.engine.toy import CACHE, SHAPE, toy_engine, toy_onnx

pytest.importorskip("tensorrt_rtx")
PROFILES = default_profiles(SHAPE, CACHE, 2, 256)


class Recorder:
    """Progress that remembers fractions and can interrupt at one of them."""

    def __init__(self, interrupt_at=2.0):
        self.fractions, self.interrupt_at = [], interrupt_at

    @contextmanager
    def stage(self, name):
        self.name = name
        yield self

    def advance(self, fraction, note=""):
        if self.name == "building for tensorrt-rtx":
            self.fractions.append(fraction)
        if fraction >= self.interrupt_at:
            raise KeyboardInterrupt


def build(tmp_path, progress=None, **options):
    return build_engine(
        toy_onnx(tmp_path / "model.onnx"),
        tmp_path,
        "tensorrt-rtx",
        PROFILES,
        progress,
        options=BuildOptions(**options),
    )


def test_a_plan_is_built_with_both_profiles_and_recorded(tmp_path):
    progress = Recorder()
    record = build(tmp_path, progress).manifest["backends"]["tensorrt-rtx"]
    assert (tmp_path / "model.engine").stat().st_size > 10_000
    assert record["files"] == ["model.engine"]
    assert [profile["name"] for profile in record["profiles"]] == ["prefill", "decode"]
    assert record["compute_capabilities"] == ["8.0", "8.6", "8.9", "12.0"]
    assert set(record["versions"]) == {"tensorrt-rtx"}
    assert progress.fractions[-1] == 1.0


def test_both_profiles_reach_the_builder(tmp_path):
    import tensorrt_rtx as trt

    from innerq_export.engine.parser import parse
    from innerq_export.engine.shapes import add_profiles

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network, parser = parse(trt, builder, logger, toy_onnx(tmp_path / "model.onnx").path)
    config = builder.create_builder_config()
    add_profiles(builder, config, network, PROFILES)
    assert config.num_optimization_profiles == 2
    del parser


def test_interrupting_leaves_no_plan_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, Recorder(interrupt_at=0.3))
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_that_the_parser_refuses_is_named_by_node_op_and_reason(tmp_path):
    model = toy_onnx(tmp_path / "model.onnx")
    proto = onnx.load(model.path)
    node = next(node for node in proto.graph.node if node.op_type == "Mod")
    node.op_type, node.name = "BitwiseAnd", "the_bad_node"
    onnx.save(proto, model.path)
    with pytest.raises(RewriteError, match=r"the_bad_node.*BitwiseAnd"):
        build_rtx_alone(model, tmp_path)
    assert not (tmp_path / "model.engine").exists()


def build_rtx_alone(model, folder):
    from innerq_export.engine import BACKENDS
    from innerq_export.progress import Silent

    with Silent().stage("") as step:
        return BACKENDS["tensorrt-rtx"].build(model, folder, PROFILES, BuildOptions(), step)


def test_a_dynamic_dimension_that_nobody_knows_is_named(tmp_path):
    model = toy_onnx(tmp_path / "model.onnx")
    proto = onnx.load(model.path)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "mystery"
    onnx.save(proto, model.path)
    with pytest.raises(RewriteError, match=r"input_ids(.|\n)*mystery"):
        build_rtx_alone(model, tmp_path)


def test_an_unknown_card_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"8\.9(.|\n)*9\.0"):
        build(tmp_path, compute_capabilities=("9.0",))


def test_the_folder_of_a_finished_build(tmp_path):
    folder = toy_engine(tmp_path / "engine", backend="tensorrt-rtx")
    assert set(read_manifest(folder).files) == {"model.onnx", "model.engine"}


def test_the_plan_is_hashed_while_it_is_written_and_never_read_again(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(files, "sha256_of", lambda path: hashed.append(path.name) or sha256_of(path))
    manifest = read_manifest(toy_engine(tmp_path / "engine", backend="tensorrt-rtx"))
    assert "model.engine" not in hashed
    check_files(tmp_path / "engine", manifest.files, fix="", full=True)
    assert "model.engine" in hashed


def test_the_builder_hears_which_files_it_will_read(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tensorrt_rtx, "run_builder", lambda request, step: asked.append(request) or "")
    model = dataclasses.replace(toy_onnx(tmp_path / "m.onnx"), weights=(WeightFile("w.safetensors", "linked", 1, ""),))
    build_rtx_alone(model, tmp_path)
    assert asked[0].weights == (tmp_path / "w.safetensors",)
