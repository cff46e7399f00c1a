"""Key normalisation of a build: with `key_norm="folded"` the checkpoint gets the lambda of a file, or of a text."""

from __future__ import annotations

from innerq_export.artifacts import Checkpoint, Graph
from innerq_export.checkpoint.key_norm import folded, read_key_norm
from innerq_export.engine import BuildRequest
from innerq_export.errors import ConfigError
from innerq_export.progress import Progress


def with_key_norm(source: Checkpoint | Graph, request: BuildRequest, progress: Progress) -> Checkpoint | Graph:
    """Return `source` with what `request` says about key normalisation; unless it is folded, as it is.

    Raises ConfigError where no lambda is named, or one for nothing, and for an .onnx: its weights stay as they are.
    """
    _check_names(request)
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


def _check_names(request: BuildRequest) -> None:
    given = [name for name in ("key_norm_file", "key_norm_text") if getattr(request, name) is not None]
    wanted = request.cache.key_norm == "folded"
    if len(given) != int(wanted):
        raise ConfigError(
            f"key_norm '{request.cache.key_norm}' with {' and '.join(given) or 'no lambda'}",
            expected="key_norm_file or key_norm_text" if wanted else "neither key_norm_file nor key_norm_text",
            got=", ".join(given) or "nothing",
            fix="--key-norm folded --key-norm-text FILE, or --key-norm-file FILE of `innerq-export calibrate`",
        )
