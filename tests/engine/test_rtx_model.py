"""A whole small decoder through TensorRT-RTX: the folder, the record, and a build that can be stopped."""

import os
import time
from contextlib import contextmanager

import pytest

from innerq_export.engine import build_engine, default_profiles, read_manifest, staging
from innerq_export.onnx_io import save_onnx
from innerq_export.rewrite import prepare_for_rtx, rewrite
from tests.engine.real import SMALL_WINDOW

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
        for_rtx = prepare_for_rtx(rewrite(graph, SMALL_WINDOW, attention_flavour="attention")[0])
        special = save_onnx(for_rtx, scratch, graph=graph, cache=SMALL_WINDOW, lowering="native")
        build_engine(native, stage, "tensorrt-rtx", profiles, progress, checkpoint=checkpoint, backend_model=special)


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
