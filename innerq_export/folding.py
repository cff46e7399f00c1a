"""Key normalisation of a build: with `key_norm="folded"` the checkpoint gets the lambda of a file, or of a text."""

from __future__ import annotations

from innerq_export.artifacts import Checkpoint, Graph
from innerq_export.checkpoint.key_norm import folded, read_key_norm
from innerq_export.engine import BuildRequest
from innerq_export.errors import ConfigError
from innerq_export.progress import Progress


def with_key_norm(source: Checkpoint | Graph, request: BuildRequest, progress: Progress) -> Checkpoint | Graph:
    """Return `source` with what `request` says about key normalisation; unless it is folded, as it is.

    Raises ConfigError for an .onnx file, whose weights stay as they are, and for a lambda of other weights.
    """
    if request.cache.key_norm != "folded":
        return source
    if isinstance(source, Graph):
        raise ConfigError(
            "key normalisation is folded into a checkpoint's weights, not into those of an .onnx file",
            got=request.model,
            fix="build from the checkpoint; if your exporter has folded it already: --key-norm none",
        )
    if request.key_norm_text is None:
        assert request.key_norm_file is not None
        return folded(source, read_key_norm(request.key_norm_file))
    from innerq_export.graph.calibrate import calibrate

    return folded(source, calibrate(source, request.key_norm_text, sink=request.cache.sink, progress=progress))
