"""Key normalisation of a build: with `key_norm="folded"` the checkpoint gets the lambda of a file, or of a text."""

from __future__ import annotations

from pathlib import Path

from innerq_export.artifacts import Checkpoint, Graph, KeyNorm
from innerq_export.checkpoint.key_norm import FILE_NAME, folded, read_key_norm, write_key_norm
from innerq_export.engine import BuildRequest
from innerq_export.engine.keys import calibration_key
from innerq_export.engine.ledger import Ledger
from innerq_export.errors import ConfigError
from innerq_export.progress import Progress


def with_key_norm(
    source: Checkpoint | Graph, request: BuildRequest, progress: Progress, ledger: Ledger | None = None
) -> Checkpoint | Graph:
    """Return `source` with what `request` says about key normalisation; unless it is folded, as it is.

    Calibration is a stage of `ledger`, its file key_norm.safetensors in the engine folder. Raises ConfigError for an
    .onnx file, whose weights stay as they are, and for a lambda of other weights.
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
    return folded(source, _calibrated(source, request.key_norm_text, request.cache.sink, progress, ledger or Ledger()))


def _calibrated(source: Checkpoint, text: Path, sink: int, progress: Progress, ledger: Ledger) -> KeyNorm:
    made: list[KeyNorm] = []

    def work() -> dict[str, str]:
        from innerq_export.graph.calibrate import calibrate

        made.append(calibrate(source, text, sink=sink, progress=progress))
        if ledger.folder:
            write_key_norm(made[0], ledger.folder / FILE_NAME)
        return {}

    ledger.run("calibrate", calibration_key(source, text, sink), work)
    if made:
        return made[0]
    assert ledger.folder is not None
    return read_key_norm(ledger.folder / FILE_NAME)
