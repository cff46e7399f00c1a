"""Checkpoint -> Graph: transformers' own model code traced without weights, then bound to the checkpoint's bytes."""

from __future__ import annotations

from innerq_export.artifacts import Checkpoint, Graph, digest_of
from innerq_export.errors import ConfigError
from innerq_export.graph.store import TraceStore
from innerq_export.progress import Progress, Silent

DTYPES = ("float16", "float32")
VERSION = 1


def export_graph(
    checkpoint: Checkpoint, dtype: str = "float16", progress: Progress | None = None, *, store: TraceStore | None = None
) -> Graph:
    """Return `checkpoint` as ONNX opset 23 with standard `Attention`, computing in `dtype`; no weight is loaded.

    Its key norm is folded into the weights that make queries and keys: they change when they are read. `store` keeps
    traced graphs between calls. Raises ConfigError for another dtype or a key norm that cannot be folded,
    CheckpointError for missing or misshapen tensors and untraceable models.
    """
    if dtype not in DTYPES:
        raise ConfigError(
            f"dtype '{dtype}' is not supported",
            expected=f"one of {', '.join(DTYPES)}",
            got=dtype,
            fix="--dtype float16",
        )
    store = store or TraceStore(wanted=False)
    known = store.has(checkpoint.config, dtype)
    with (progress or Silent()).stage("reusing the traced graph" if known else "exporting to ONNX") as step:
        step.advance(0.0, "loading torch")
        import torch

        from innerq_export.graph.bind import bind_weights, find_tensors
        from innerq_export.graph.fold import fold_factors
        from innerq_export.graph.skeleton import build_skeleton, parameter_aliases
        from innerq_export.graph.tidy import tidy
        from innerq_export.graph.trace import trace

        skeleton = build_skeleton(checkpoint.config, getattr(torch, dtype))
        shapes = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
        tensors = find_tensors(checkpoint, parameter_aliases(skeleton), shapes)
        norm = checkpoint.key_norm
        factors = fold_factors(skeleton, checkpoint.shape, norm.lambda_LHkvD) if norm else {}
        model = store.traced(checkpoint.config, dtype, lambda: tidy(trace(skeleton, step)))
        bind_weights(model, tensors, factors)
        step.advance(1.0, "done")
        digest = digest_of(checkpoint.digest, dtype, VERSION, torch.__version__)
        return Graph(model=model, shape=checkpoint.shape, dtype=dtype, digest=digest)
