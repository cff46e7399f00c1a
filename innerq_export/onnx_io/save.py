"""Writing model.onnx and its weights into a folder: first everything under temporary names, then renamed, model last.

ONNX external data lies in the folder of the model. Weights that are bytes of a checkpoint file are reached through a
hard link to that file; what cannot be linked, and what had to change, is streamed into model.onnx.data.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from innerq_export.artifacts import Graph, OnnxModel, digest_of
from innerq_export.errors import UserError
from innerq_export.onnx_io.check import check_model
from innerq_export.onnx_io.staging import Staging
from innerq_export.onnx_io.weights import place_weights
from innerq_export.progress import Progress, Silent
from innerq_export.spec import CacheConfig

MODEL_NAME = "model.onnx"
DATA_NAME = f"{MODEL_NAME}.data"
PRODUCER = "innerq-export"


def save_onnx(
    model: ir.Model,
    folder: Path,
    *,
    graph: Graph,
    cache: CacheConfig,
    lowering: str,
    copy_weights: bool = False,
    progress: Progress | None = None,
    name: str = MODEL_NAME,
) -> OnnxModel:
    """Write `model`, which `rewrite` made of `graph`, into `folder`; return what was written, checked by onnx.

    `name` is the file's, `NAME.data` its weights'. `copy_weights` makes the folder self-contained.
    `OnnxModel.weights` says what became of each file. `model` itself is not changed. After an error the folder is as
    before; only while renaming can an older file of that name be lost. Raises CheckpointError for missing bytes,
    RewriteError if onnx refuses the model, UserError if it cannot be written.
    """
    try:
        return _save(model, folder / name, graph, cache, lowering, copy_weights, progress or Silent())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write the model there",
            expected="a folder that can be written, with room for the weights that cannot be linked",
            got=error.strerror or str(error),
            fix="free some space, or name another output folder",
        ) from error


def _save(
    model: ir.Model,
    path: Path,
    graph: Graph,
    cache: CacheConfig,
    lowering: str,
    copy_weights: bool,
    progress: Progress,
) -> OnnxModel:
    with progress.stage(f"writing {path.name}") as step, Staging(path.parent) as staging:
        written = model.clone()
        written.producer_name = PRODUCER
        written.metadata_props.update({"innerq.cache": cache.to_json(), "innerq.lowering": lowering})
        weights = place_weights(written, staging, f"{path.name}.data", copy_weights, step)
        proto = ir.to_proto(written)
        check_model(proto)
        staging.path(path.name).write_bytes(proto.SerializeToString(deterministic=True))
        digest = digest_of(graph.digest, staging.path(path.name))
        staging.commit(last=path.name)
        step.advance(1.0, path.name)
        return OnnxModel(path, lowering, cache, graph.shape, graph.dtype, digest, weights)
