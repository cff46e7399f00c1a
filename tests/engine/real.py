"""A checkpoint's engine folder, made by the stages themselves."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from innerq_export.artifacts import Checkpoint, Graph, OnnxModel
from innerq_export.engine import build_engine, default_profiles, seal, staging
from innerq_export.onnx_io import save_onnx, share_weights
from innerq_export.rewrite import prepare_for_rtx, rewrite
from innerq_export.spec import CacheConfig

SMALL_WINDOW = CacheConfig(sink=4, recent=12)


def engine_of(checkpoint: Checkpoint, graph: Graph, folder: Path, *, rtx_form: bool = False) -> Path:
    """Build for ONNX Runtime alone, with a window so small that few tokens fill blocks.

    `rtx_form` takes as model.onnx the form that TensorRT-RTX gets, which ONNX Runtime runs too.
    """
    cache = SMALL_WINDOW
    profiles = default_profiles(graph.shape, cache, 2, graph.shape.max_positions)
    with staging(folder) as stage:
        model = for_rtx(graph) if rtx_form else rewrite(graph, cache)[0]
        saved = save_onnx(model, stage, graph=graph, cache=cache, lowering="native")
        build_engine(saved, stage, "onnxruntime", profiles, checkpoint=checkpoint)
    seal(folder, ready=True, parity=None)
    return folder


def for_rtx(graph: Graph) -> ir.Model:
    """Rewrite in the form that TensorRT-RTX builds."""
    model, _ = rewrite(graph, SMALL_WINDOW, attention_flavour="attention")
    return prepare_for_rtx(model)


def beside(graph: Graph, engine: Path, scratch: Path, *, copy_weights: bool = False) -> OnnxModel:
    """Save the form for TensorRT-RTX into `scratch`, on the weights of model.onnx in `engine`, which is of `graph`."""
    first, model = rewrite(graph, SMALL_WINDOW)[0], for_rtx(graph)
    saved = OnnxModel(engine / "model.onnx", "native", SMALL_WINDOW, graph.shape, graph.dtype, "")
    assert share_weights(model, first, saved)
    scratch.mkdir(exist_ok=True)
    own = {"graph": graph, "cache": SMALL_WINDOW, "copy_weights": copy_weights}
    return save_onnx(model, scratch, lowering="native", **own)
