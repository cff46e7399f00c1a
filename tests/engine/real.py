"""A checkpoint's engine folder, made by the stages themselves."""

from __future__ import annotations

from pathlib import Path

from innerq_export.artifacts import Checkpoint, Graph
from innerq_export.engine import build_engine, default_profiles, seal, staging
from innerq_export.onnx_io import save_onnx
from innerq_export.rewrite import rewrite
from innerq_export.spec import CacheConfig

SMALL_WINDOW = CacheConfig(sink=4, recent=12)


def engine_of(checkpoint: Checkpoint, graph: Graph, folder: Path, cache: CacheConfig = SMALL_WINDOW) -> Path:
    """Build for ONNX Runtime alone, with a window so small that few tokens fill blocks."""
    profiles = default_profiles(graph.shape, cache, 2, graph.shape.max_positions)
    with staging(folder) as stage:
        model, _ = rewrite(graph, cache)
        saved = save_onnx(model, stage, graph=graph, cache=cache, lowering="native")
        build_engine(saved, stage, "onnxruntime", profiles, checkpoint=checkpoint)
    seal(folder, ready=True, parity=None)
    return folder
