"""A whole decoder in both lowerings: model.onnx in ONNX Runtime, model.plugin.onnx behind TensorRT's interface."""

import numpy as np
import pytest
import torch

from innerq_export.engine import PLUGIN_ONNX_NAME
from innerq_export.graph import export_graph
from innerq_export.onnx_io import save_onnx
from innerq_export.reference.packed import unpack
from innerq_export.rewrite import rewrite
from innerq_export.runtime import OnnxRuntimeSession, choose_backend, open_session
from innerq_export.runtime.tensorrt import TensorRtSession
from tests.engine.real import SMALL_WINDOW, engine_of
from tests.runtime.plan_folder import pretend, with_plan

LENGTHS = (SMALL_WINDOW.sink + SMALL_WINDOW.recent + 2 * 32 + 5, 40)
TOLERANCE = 1e-3
"""Relative L2 of logits. In fp32, so that two orders of summing differ by 1e-6 and hardly a code flips."""


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    place = tmp_path_factory.mktemp("plugin")
    graph = export_graph(tiny_checkpoint, "float32")
    source = engine_of(tiny_checkpoint, graph, place / "native")
    model, _ = rewrite(graph, SMALL_WINDOW, "plugin")
    whole = {"copy_weights": True, "name": PLUGIN_ONNX_NAME}
    saved = save_onnx(model, place / "onnx", graph=graph, cache=SMALL_WINDOW, lowering="plugin", **whole)
    return with_plan(source, place / "engine", "tensorrt", saved.path, 512)


@pytest.fixture
def sessions(folder, monkeypatch):
    pretend(monkeypatch)
    return OnnxRuntimeSession(folder, batch=2, threads=1), TensorRtSession(folder, batch=2)


@pytest.fixture(scope="module")
def prompts():
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, length).tolist() for length in LENGTHS]


def distance(one, other):
    return np.linalg.norm(one - other) / np.linalg.norm(one)


def test_prefill_and_decoding_agree(sessions, prompts):
    native, plugin = sessions
    logits = [session.prefill(prompts, chunk=50) for session in sessions]
    assert distance(*logits) < TOLERANCE
    for _ in range(3):
        tokens = logits[0].argmax(-1).tolist()
        logits = [session.decode(tokens) for session in sessions]
        assert distance(*logits) < TOLERANCE
    assert plugin.length_B.tolist() == native.length_B.tolist()


def test_the_packed_cache_holds_what_the_logical_one_holds(sessions, prompts):
    native, plugin = sessions
    for session in sessions:
        session.prefill(prompts)
    held, packed = native.cache(0), plugin.cache(0)
    assert distance(held["window"], packed["window"].numpy()) < 1e-5
    blocks = unpack(SMALL_WINDOW, packed["blocks"], 64).tensors()
    for name in ("key_codes", "value_codes"):
        one, other = torch.from_numpy(held[name])[0, :, :2], blocks[name][0, :, :2]
        assert one.any()
        assert (one == other).float().mean() > 0.9999, name


def test_a_cache_with_one_layer_lost_is_seen(sessions, prompts):
    """Mutation: the tolerance does not hide a layer whose records are another's."""
    plugin = sessions[1]
    logits = [session.prefill(prompts) for session in sessions]
    plugin.cache(1)["blocks"].copy_(plugin.cache(0)["blocks"])
    tokens = logits[0].argmax(-1).tolist()
    assert distance(*(session.decode(tokens)[:1] for session in sessions)) > 5 * TOLERANCE


def test_auto_takes_the_plan_where_it_runs_and_onnx_elsewhere(folder, monkeypatch):
    pretend(monkeypatch)
    assert choose_backend(folder) == ("tensorrt", {})
    assert isinstance(open_session(folder), TensorRtSession)
    pretend(monkeypatch, card=None)
    backend, refused = choose_backend(folder)
    assert backend == "onnxruntime"
    assert refused["tensorrt"].got == "no NVIDIA card with a driver"
    assert isinstance(open_session(folder), OnnxRuntimeSession)
