"""Checkpoint -> Graph: transformers' own model code traced without weights, then bound to the checkpoint's bytes."""

from __future__ import annotations

from innerq_export.artifacts import Checkpoint, Graph, digest_of
from innerq_export.errors import ConfigError
from innerq_export.progress import Progress, Silent

DTYPES = ("float16", "float32")
VERSION = 1


def export_graph(checkpoint: Checkpoint, dtype: str = "float16", progress: Progress | None = None) -> Graph:
    """Return `checkpoint` as ONNX opset 23 with standard `Attention`, computing in `dtype`; no weight is loaded.

    Raises ConfigError for another dtype, CheckpointError for missing or misshapen tensors and untraceable models.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype '{dtype}' is not supported", expected=f"one of {', '.join(DTYPES)}", got=dtype)
    with (progress or Silent()).stage("exporting to ONNX") as step:
        step.advance(0.0, "loading torch")
        import torch

        from innerq_export.graph.bind import bind_weights, find_tensors
        from innerq_export.graph.skeleton import build_skeleton, parameter_aliases
        from innerq_export.graph.tidy import tidy
        from innerq_export.graph.trace import trace

        skeleton = build_skeleton(checkpoint.config, getattr(torch, dtype))
        shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
        tensors = find_tensors(checkpoint, parameter_aliases(skeleton), shapes)
        model = tidy(trace(skeleton, step))
        bind_weights(model, tensors)
        step.advance(1.0, "done")
        digest = digest_of(checkpoint.digest, dtype, VERSION, torch.__version__)
        return Graph(model=model, shape=checkpoint.shape, dtype=dtype, digest=digest)
