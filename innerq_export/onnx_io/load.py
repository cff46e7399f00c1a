"""Reading model.onnx back: the graph and what its metadata says, weights left where they are."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from innerq_export.errors import CheckpointError
from innerq_export.onnx_io.external import require_bytes


def load_onnx(path: Path) -> ir.Model:
    """Return the model at `path`; initializers stay external. CheckpointError if a file it needs is absent or short."""
    try:
        model = ir.load(path)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as ONNX", got=str(error), fix="build it again") from error
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            require_bytes(tensor)
    return model
