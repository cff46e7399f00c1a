"""Reading model.onnx back: the graph and what its metadata says, weights left where they are."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from innerq_export.errors import CheckpointError


def load_onnx(path: Path) -> ir.Model:
    """Return the model at `path`; initializers stay external. CheckpointError if a file it needs is absent or short."""
    try:
        model = ir.load(path)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as ONNX", got=str(error), fix="build it again") from error
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            _require(path, tensor)
    return model


def _require(path: Path, tensor: ir.ExternalTensor) -> None:
    file = Path(tensor.path)
    size = file.stat().st_size if file.is_file() else None
    end = (tensor.offset or 0) + tensor.nbytes
    if size is None or size < end:
        raise CheckpointError(
            f"{path}: the bytes of '{tensor.name}' are missing",
            expected=f"{file.name} of at least {end} bytes",
            got="no such file" if size is None else f"{size} bytes",
            fix="build it again, or copy the whole folder",
        )
