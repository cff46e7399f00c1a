"""Writing a model beside its weights: linked, copied, whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from innerq_export.artifacts import Graph, OnnxModel
from innerq_export.errors import CheckpointError, RewriteError, UserError
from innerq_export.onnx_io import DATA_NAME, MODEL_NAME, load_onnx, save_onnx, share_weights
from innerq_export.spec import CacheConfig

X = np.full((16, 64), 0.5, np.float16)
EXPECTED = np.arange(1024).reshape(16, 64) * 0.5 + 3


def save(graph: Graph, folder: Path, **options: Any) -> OnnxModel:
    return save_onnx(graph.model, folder, graph=graph, cache=CacheConfig(), lowering="native", **options)


def run(path: Path) -> np.ndarray:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_weights_in_a_file_are_linked_and_what_changed_is_written(
    graph: Graph, weights_file: Path, tmp_path: Path
) -> None:
    saved = save(graph, tmp_path / "engine")
    assert names(tmp_path / "engine") == [MODEL_NAME, DATA_NAME, "model.safetensors"]
    assert (tmp_path / "engine" / "model.safetensors").samefile(weights_file)
    assert [(file.name, file.how, file.reason) for file in saved.weights] == [
        ("model.safetensors", "linked", ""),
        (DATA_NAME, "copied", "dtype or values changed"),
    ]
    assert (tmp_path / "engine" / DATA_NAME).stat().st_size == 2048 == saved.weights[1].nbytes
    assert np.array_equal(run(saved.path), EXPECTED)


def test_copied_weights_make_the_folder_self_contained(graph: Graph, weights_file: Path, tmp_path: Path) -> None:
    os.link(weights_file, weights_file.with_name("another engine's link"))
    saved = save(graph, tmp_path / "engine", copy_weights=True)
    assert names(tmp_path / "engine") == [MODEL_NAME, DATA_NAME]
    assert [file.reason for file in saved.weights] == ["asked for"]
    weights_file.unlink()
    assert np.array_equal(run(saved.path), EXPECTED)
    onnx.checker.check_model(saved.path, full_check=True)


def test_where_links_are_refused_bytes_are_copied_and_it_is_said(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    saved = save(graph, tmp_path / "engine")
    assert names(tmp_path / "engine") == [MODEL_NAME, DATA_NAME]
    assert saved.weights[0].how == "copied"
    assert saved.weights[0].reason == "no hard link to model.safetensors: Invalid cross-device link"
    assert np.array_equal(run(saved.path), EXPECTED)


def test_two_files_of_one_name_keep_apart(graph: Graph, weights_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / weights_file.name
    other.parent.mkdir()
    other.write_bytes(np.full(1024, 2, np.float16).tobytes())
    graph.model.graph.initializers["W2"].const_value = ir.ExternalTensor(
        other.name, 0, 2048, ir.DataType.FLOAT16, shape=ir.Shape([16, 64]), name="W2", base_dir=other.parent
    )
    saved = save(graph, tmp_path / "engine")
    assert len({file.name for file in saved.weights}) == 2
    assert {file.how for file in saved.weights} == {"linked"}
    assert np.array_equal(run(saved.path), EXPECTED)


def test_saving_again_replaces_and_the_digest_follows_the_content(graph: Graph, tmp_path: Path) -> None:
    first, second = save(graph, tmp_path / "engine"), save(graph, tmp_path / "engine")
    assert first == second
    graph.model.graph.node(0).op_type = "Div"
    assert save(graph, tmp_path / "engine").digest != first.digest
    assert names(tmp_path / "engine") == [MODEL_NAME, DATA_NAME, "model.safetensors"]


def test_the_model_given_is_not_changed(graph: Graph, weights_file: Path, tmp_path: Path) -> None:
    save(graph, tmp_path / "engine")
    tensor = graph.model.graph.initializers["W1"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert Path(tensor.path) == weights_file
    assert not graph.model.metadata_props


@pytest.mark.parametrize(
    ("error", "shown"),
    [(CheckpointError, CheckpointError), (KeyboardInterrupt, KeyboardInterrupt), (OSError, UserError)],
)
def test_an_error_on_the_way_leaves_nothing_behind(
    graph: Graph, tmp_path: Path, error: type[BaseException], shown: type[BaseException]
) -> None:
    def stop() -> ir.Tensor:
        raise error("stopped")

    lazy = ir.LazyTensor(stop, dtype=ir.DataType.FLOAT16, shape=ir.Shape([16, 64]), name="W2")
    graph.model.graph.initializers["W2"].const_value = lazy
    with pytest.raises(shown, match="stopped"):
        save(graph, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_an_error_leaves_an_older_model_whole(graph: Graph, tmp_path: Path) -> None:
    saved = save(graph, tmp_path / "engine")
    before = {path.name: path.read_bytes() for path in (tmp_path / "engine").iterdir()}
    graph.model.graph.node(0).op_type = "NoSuchOperator"
    with pytest.raises(RewriteError, match="onnx refuses the model that was written"):
        save(graph, tmp_path / "engine")
    assert {path.name: path.read_bytes() for path in (tmp_path / "engine").iterdir()} == before
    assert np.array_equal(run(saved.path), EXPECTED)


def test_a_file_that_ends_inside_a_tensor_is_an_error_that_names_it(
    graph: Graph, weights_file: Path, tmp_path: Path
) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:1000])
    for copy in (False, True):
        with pytest.raises(CheckpointError, match="the bytes of tensor 'W1' are missing"):
            save(graph, tmp_path / "engine", copy_weights=copy)


def test_loading_back_gives_the_configuration_and_checks_the_weights(graph: Graph, tmp_path: Path) -> None:
    saved = save(graph, tmp_path / "engine")
    model = load_onnx(saved.path)
    assert CacheConfig.from_json(model.metadata_props["innerq.cache"]) == CacheConfig()
    assert model.metadata_props["innerq.lowering"] == "native"
    (tmp_path / "engine" / DATA_NAME).write_bytes(b"short")
    with pytest.raises(CheckpointError, match="the bytes of tensor 'W2' are missing"):
        load_onnx(saved.path)
    saved.path.write_bytes(b"not onnx")
    with pytest.raises(CheckpointError, match="cannot be read as ONNX"):
        load_onnx(saved.path)


def test_a_second_model_in_the_folder_uses_the_weights_of_the_first(graph: Graph, tmp_path: Path) -> None:
    first, other = graph.model.clone(), graph.model.clone()
    folder = tmp_path / "engine"
    saved = save_onnx(first, folder, graph=graph, cache=CacheConfig(), lowering="native", copy_weights=True)
    assert share_weights(other, first, saved) == 2
    second = save_onnx(other, folder, graph=graph, cache=CacheConfig(), lowering="native", name="second.onnx")
    assert names(folder) == [MODEL_NAME, DATA_NAME, "second.onnx"]
    assert [(file.name, file.how) for file in second.weights] == [(DATA_NAME, "linked")]
    assert np.array_equal(run(second.path), EXPECTED)


def test_a_second_model_elsewhere_links_them(graph: Graph, tmp_path: Path) -> None:
    first, other = graph.model.clone(), graph.model.clone()
    saved = save_onnx(
        first, tmp_path / "engine", graph=graph, cache=CacheConfig(), lowering="native", copy_weights=True
    )
    share_weights(other, first, saved)
    second = save_onnx(other, tmp_path / "scratch", graph=graph, cache=CacheConfig(), lowering="native")
    assert [file.how for file in second.weights] == ["linked"]
    linked = tmp_path / "scratch" / second.weights[0].name
    assert linked.samefile(tmp_path / "engine" / DATA_NAME)
    assert np.array_equal(run(second.path), EXPECTED)


def test_a_weight_that_one_model_changed_is_not_shared(graph: Graph, tmp_path: Path) -> None:
    first, other = graph.model.clone(), graph.model.clone()
    saved = save(graph, tmp_path / "engine")
    changed = other.graph.initializers["W1"]
    changed.const_value = ir.tensor(np.zeros((16, 64), np.float16), name="W1")
    assert share_weights(other, first, saved) == 1
    second = save_onnx(
        other, tmp_path / "engine", graph=graph, cache=CacheConfig(), lowering="native", name="second.onnx"
    )
    assert np.array_equal(run(second.path), np.full((16, 64), 3.0))
