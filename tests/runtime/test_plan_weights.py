"""A plan whose weights are inputs computes what it computes with them inside; wrong bytes are seen or named."""

import shutil

import numpy as np
import onnx
import pytest
import torch

from innerq_export.engine import read_manifest, seal
from innerq_export.engine.folder import write_manifest
from innerq_export.engine.stripped import strip_weights
from innerq_export.errors import OutOfMemoryError, UserError
from innerq_export.runtime import plan_weights
from innerq_export.runtime.tensorrt import TensorRtSession
from tests.engine.real import beside
from tests.runtime.plan_folder import pretend, with_plan

STEPS = ([list(range(40, 120)), list(range(7))], [[3], [5]], [[9], []], [[1, 2, 3], [4]])


@pytest.fixture(scope="module")
def folders(tiny_graph, tiny_engine, tmp_path_factory):
    """Engine folders for TensorRT-RTX with two profiles: the plan as it is, and stripped."""
    place = tmp_path_factory.mktemp("stripped")
    copied = beside(tiny_graph, tiny_engine, place / "copied", copy_weights=True).path
    whole = with_plan(tiny_engine, place / "whole", "tensorrt-rtx", copied, 512)
    network = beside(tiny_graph, tiny_engine, place / "linked")
    stripped = strip_weights(network.path, tiny_engine / "model.onnx")
    for file in network.weight_paths:
        unlinked(file)
    lean = with_plan(tiny_engine, place / "lean", "tensorrt-rtx", stripped, 512)
    return whole, with_weights(lean, "model.onnx")


def unlinked(file):
    """Make a file its own: onnx refuses what has several names."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)


def with_weights(folder, name):
    manifest = read_manifest(folder)
    record = {**manifest.backends["tensorrt-rtx"], "weights": name}
    write_manifest(folder, manifest.replace(backends={**manifest.backends, "tensorrt-rtx": record}))
    return folder


def logits(folder):
    session = TensorRtSession(folder, backend="tensorrt-rtx", batch=2)
    return [session.prefill(rows) for rows in STEPS]


def errors(one, other):
    """The relative error of every step's logits."""
    pairs = zip(logits(one), logits(other), strict=True)
    return [np.linalg.norm(expected - got) / np.linalg.norm(expected) for expected, got in pairs]


@pytest.fixture
def broken(folders, tmp_path, monkeypatch):
    """A copy of the stripped folder whose model.onnx `change` may alter."""
    pretend(monkeypatch)

    def broken(change):
        folder = shutil.copytree(folders[1], tmp_path / "broken")
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        (folder / "model.onnx").unlink()
        change({weight.name: weight for weight in model.graph.initializer})
        onnx.save(model, folder / "model.onnx")
        seal(folder, ready=True, parity=None)
        return folder

    return broken


def test_logits_are_the_same_through_every_profile(folders, monkeypatch):
    """ONNX Runtime rounds fp16 products with constants otherwise; a K or V may then take the next code."""
    pretend(monkeypatch)
    found = errors(*folders)
    assert found[0] < 0.005
    assert max(found) < 0.02
    assert (folders[1] / "model.engine").stat().st_size < (folders[0] / "model.engine").stat().st_size / 2


def swap(weights):
    """Two matrices of one shape take each other's bytes."""
    first, second = (weights[f"model.layers.{layer}.self_attn.o_proj.weight"] for layer in (0, 1))
    places = [list(second.external_data), list(first.external_data)]
    for weight, place in zip((first, second), places, strict=True):
        copied = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in place]
        del weight.external_data[:]
        weight.external_data.extend(copied)


def test_swapped_weights_are_other_logits(folders, broken):
    """Mutation: what the comparison above would see."""
    assert min(errors(folders[0], broken(swap))) > 0.1


def beyond(weights):
    weight = next(weight for weight in weights.values() if len(weight.dims) > 1)
    next(entry for entry in weight.external_data if entry.key == "offset").value = str(1 << 40)


def test_bytes_that_are_not_there_are_named(broken):
    with pytest.raises(UserError, match=r"weight '.*' cannot be read(.|\n)*build the engine again"):
        logits(broken(beyond))


def elsewhere(weights):
    for weight in weights.values():
        for entry in weight.external_data:
            entry.value = "/etc/passwd" if entry.key == "location" else entry.value


def test_no_file_outside_of_the_folder_is_read(broken):
    with pytest.raises(UserError, match=r"bytes at(.|\n)*broken/passwd"):
        logits(broken(elsewhere))


def test_a_card_that_is_too_small_is_said_so(folders, monkeypatch):
    pretend(monkeypatch)
    monkeypatch.setattr(plan_weights, "_read", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(OutOfMemoryError, match="too little memory for the weights"):
        logits(folders[1])
