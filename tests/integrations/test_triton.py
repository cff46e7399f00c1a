"""The Triton repository, held to Triton's own protobuf of the model configuration."""

import importlib.metadata
import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from google.protobuf import text_format

from innerq_export.artifacts import ModelShape
from innerq_export.cli.triton import command
from innerq_export.engine.files import entries_of
from innerq_export.engine.folder import write_manifest
from innerq_export.engine.manifest import Manifest
from innerq_export.errors import ConfigError, EnvironmentMismatchError
from innerq_export.integrations.pbtxt import Enum, to_pbtxt
from innerq_export.integrations.triton import write_repository
from innerq_export.spec import PRESETS, record_bytes

SHAPE = ModelShape(layers=3, heads=8, kv_heads=2, head_dim=64, vocab=1000, max_positions=4096)


@pytest.fixture(scope="session")
def model_config():
    """Triton's ModelConfig message. The module is loaded by its path: the package around it wants grpc."""
    try:
        files = importlib.metadata.files("tritonclient") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tritonclient is not installed")
    path = next(file for file in files if str(file).endswith("tritonclient/grpc/model_config_pb2.py"))
    spec = importlib.util.spec_from_file_location("triton_model_config", path.locate())
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_onnx(path: Path, rows) -> None:
    """A model.onnx with nothing but its output."""
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT16, ["B", rows, SHAPE.vocab])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [logits])), path)


def engine_folder(folder: Path, *, preset="balanced", backend="tensorrt", rows=1) -> Path:
    folder.mkdir()
    write_onnx(folder / "model.onnx", rows)
    for name in ("model.engine", "libinnerq_trt.so"):
        (folder / name).write_bytes(name.encode())
    profile = {"name": "decode", "blocks": {"min": 1, "opt": 50, "max": 100}}
    manifest = Manifest(
        tool_version="0",
        created="now",
        source="llama",
        source_digest="0",
        notes=(),
        lowering="native",
        dtype="float16",
        model=SHAPE,
        cache=PRESETS[preset],
        max_batch=4,
        max_context=3328,
        versions={},
        backends={"onnxruntime": {"versions": {}}, backend: {"versions": {}, "profiles": [profile]}},
        files=entries_of(folder),
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def written(tmp_path):
    return write_repository(engine_folder(tmp_path / "llama"), tmp_path / "repository")


def parsed(model_config, folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config.ModelConfig())


def test_triton_parses_the_configuration(model_config, written):
    config = parsed(model_config, written)
    assert (config.name, config.platform, config.max_batch_size) == ("llama", "tensorrt_plan", 4)
    assert [tensor.name for tensor in config.input] == ["input_ids", "position_ids", "past_length", "new_length"]
    assert [list(tensor.dims) for tensor in config.input] == [[-1], [-1], [1], [1]]
    assert all(tensor.HasField("reshape") and not tensor.reshape.shape for tensor in config.input[2:])
    assert [tensor.data_type for tensor in config.input] == [model_config.TYPE_INT64] * 2 + [
        model_config.TYPE_INT32
    ] * 2
    (logits,) = config.output
    assert logits.name == "logits" and list(logits.dims) == [1, 1000] and logits.data_type == model_config.TYPE_FP16
    (group,) = config.instance_group
    assert group.kind == model_config.ModelInstanceGroup.KIND_GPU and list(group.profile) == ["0", "1"]


@pytest.mark.parametrize("preset", ["balanced", "hybrid"])
def test_every_cache_tensor_is_a_state(model_config, tmp_path, preset):
    folder = write_repository(engine_folder(tmp_path / "llama", preset=preset), tmp_path / "repository")
    states = parsed(model_config, folder).sequence_batching.state
    cache = PRESETS[preset]
    expected = {
        "window": ([2, 2, cache.window_tokens, 64], model_config.TYPE_FP16),
        "key_norm": ([2, 64], model_config.TYPE_FP16),
        "blocks": ([2, 100, record_bytes(cache, 64) // 4], model_config.TYPE_INT32),
    }
    assert [state.input_name for state in states] == [f"past_{part}_{i}" for i in range(3) for part in expected]
    for state in states:
        part = state.input_name.removeprefix("past_").rpartition("_")[0]
        dims, kind = expected[part]
        assert (list(state.dims), state.data_type) == (dims, kind)
        assert state.output_name == state.input_name.replace("past_", "present_")
        assert state.use_same_buffer_for_input_output and not state.use_growable_memory
        (start,) = state.initial_state
        assert (list(start.dims), start.data_type) == (dims, kind)
        assert start.WhichOneof("state_data") == ("data_file" if part == "key_norm" else "zero_data")


def test_logits_of_all_tokens(model_config, tmp_path):
    folder = write_repository(engine_folder(tmp_path / "llama", rows="S"), tmp_path / "repository")
    assert list(parsed(model_config, folder).output[0].dims) == [-1, 1000]


def test_a_fresh_key_norm_is_one(model_config, written):
    state = parsed(model_config, written).sequence_batching.state[1]
    ones = np.frombuffer((written / "initial_state" / state.initial_state[0].data_file).read_bytes(), np.float16)
    assert ones.size == np.prod(state.dims) and (ones == 1).all()


def test_plan_plugin_and_start_script(written, tmp_path):
    assert (written / "1" / "model.plan").read_bytes() == b"model.engine"
    assert os.stat(written / "1" / "model.plan").st_nlink == 2
    server = tmp_path / "tritonserver"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    start = written.parent / "start.sh"
    said = subprocess.run(
        [start, "--log-verbose=1"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines() == [
        f"--model-repository={written.parent}",
        f"--backend-config=tensorrt,plugins={written}/libinnerq_trt.so",
        "--log-verbose=1",
    ]


def test_an_engine_without_a_plan_names_the_command(tmp_path):
    folder = engine_folder(tmp_path / "llama", backend="tensorrt-rtx")
    with pytest.raises(EnvironmentMismatchError, match="innerq-export build --model llama --backend tensorrt"):
        write_repository(folder, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("options", [{"name": "../up"}, {"name": ".hidden"}, {"max_batch": 5}])
def test_impossible_options_are_refused(tmp_path, options):
    with pytest.raises(ConfigError):
        write_repository(engine_folder(tmp_path / "llama"), tmp_path / "repository", **options)


def test_a_model_that_is_there_stays(written, tmp_path):
    with pytest.raises(ConfigError, match="exists"):
        write_repository(tmp_path / "llama", tmp_path / "repository")
    assert sorted(path.name for path in (tmp_path / "repository").iterdir()) == ["llama", "start.sh"]


def test_two_models_in_one_repository(written, tmp_path):
    write_repository(tmp_path / "llama", tmp_path / "repository", name="second", max_batch=1)
    assert (tmp_path / "repository" / "second" / "config.pbtxt").read_text().startswith('name: "second"')


def test_the_command(tmp_path):
    folder = engine_folder(tmp_path / "llama")
    result = CliRunner().invoke(command, [str(folder), str(tmp_path / "out"), "--name", "m"], standalone_mode=False)
    assert result.exception is None and str(tmp_path / "out" / "m" / "config.pbtxt") in result.stdout


def test_text_form():
    message = {"a": 1, "b": 'x"y', "c": Enum("KIND"), "d": True, "e": [1, 2], "f": [{"g": 1}, {"g": 2}], "h": {"i": []}}
    assert to_pbtxt(message).splitlines() == [
        "a: 1",
        'b: "x\\"y"',
        "c: KIND",
        "d: true",
        "e: [1, 2]",
        "f {",
        "  g: 1",
        "}",
        "f {",
        "  g: 2",
        "}",
        "h {",
        "  i: []",
        "}",
    ]
