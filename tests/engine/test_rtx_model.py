"""A whole small decoder through TensorRT-RTX: the folder, the record, and a build that can be stopped."""

import os
import time
from contextlib import contextmanager

import numpy as np
import pytest

from innerq_export.engine import build_engine, default_profiles, read_manifest, staging
from innerq_export.onnx_io import save_onnx
from innerq_export.rewrite import rewrite
from innerq_export.runtime import OnnxRuntimeSession
from tests.engine.real import SMALL_WINDOW, engine_of, for_rtx

pytest.importorskip("tensorrt_rtx")


class Recorder:
    def __init__(self, stop_at=2.0):
        self.reports, self.stop_at = [], stop_at

    @contextmanager
    def stage(self, name):
        self.name = name
        yield self

    def advance(self, fraction, note=""):
        if self.name == "building for tensorrt-rtx":
            self.reports.append((fraction, note))
            if fraction >= self.stop_at:
                self.stopped = time.monotonic()
                raise KeyboardInterrupt


def build(checkpoint, graph, folder, scratch, progress):
    profiles = default_profiles(graph.shape, SMALL_WINDOW, 2, 256)
    scratch.mkdir()
    with staging(folder) as stage:
        native = save_onnx(rewrite(graph, SMALL_WINDOW)[0], stage, graph=graph, cache=SMALL_WINDOW, lowering="native")
        special = save_onnx(for_rtx(graph), scratch, graph=graph, cache=SMALL_WINDOW, lowering="native")
        build_engine(native, stage, "tensorrt-rtx", profiles, progress, checkpoint=checkpoint, backend_model=special)


def test_what_rtx_builds_computes_what_model_onnx_computes(tiny_checkpoint, tiny_graph, tiny_engine, tmp_path):
    """The plan cannot run without an RTX card; the network that it was made of can, in ONNX Runtime.

    fp16 products rounded in another order differ by 0.002; later one K or V in a thousand takes the next code, which is
    0.01 at the median and 0.09 at most. One head of one layer with its values negated is above 0.1 at once.
    """
    rtx_form = engine_of(tiny_checkpoint, tiny_graph, tmp_path / "engine", rtx_form=True)
    sessions = [OnnxRuntimeSession(folder, batch=2, threads=1) for folder in (tiny_engine, rtx_form)]
    tokens = np.random.default_rng(1).integers(0, 256, (2, 120)).tolist()
    steps = [[tokens[0][:70], tokens[1][:33]], *([[row[70 + step]] for row in tokens] for step in range(50))]
    errors = [relative_error(*(session.prefill(prompts) for session in sessions)) for prompts in steps]
    assert errors[0] < 0.005
    assert np.median(errors) < 0.02
    first = [session.cache(0) for session in sessions]
    assert all(np.array_equal(first[0][part], first[1][part]) for part in first[0])
    assert first[0]["value_codes"].any()
    sessions[1].cache(0)["value_codes"][:, 0] *= -1
    assert relative_error(*(session.decode([1, 1]) for session in sessions)) > 0.1


def relative_error(expected, got):
    return np.linalg.norm(expected - got) / np.linalg.norm(expected)


def test_a_decoder_becomes_a_plan_with_progress(tiny_checkpoint, tiny_graph, tmp_path):
    progress = Recorder()
    build(tiny_checkpoint, tiny_graph, tmp_path / "engine", tmp_path / "scratch", progress)
    manifest = read_manifest(tmp_path / "engine")
    assert set(manifest.backends) == {"onnxruntime", "tensorrt-rtx"}
    assert manifest.files["model.engine"].bytes > 1 << 20
    assert not manifest.ready
    fractions = [fraction for fraction, _ in progress.reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len({fraction for fraction in fractions if 0.05 < fraction < 0.95}) >= 3
    assert {f"compiling profile {number} of 2" for number in (1, 2)} <= {note for _, note in progress.reports}


def test_stopping_while_tensorrt_compiles_takes_effect_at_once(tiny_checkpoint, tiny_graph, tmp_path):
    progress = Recorder(stop_at=0.1)
    with pytest.raises(KeyboardInterrupt):
        build(tiny_checkpoint, tiny_graph, tmp_path / "engine", tmp_path / "scratch", progress)
    assert time.monotonic() - progress.stopped < 1.0
    assert {name for name in os.listdir(tmp_path) if not name.endswith(".lock")} == {"scratch"}
