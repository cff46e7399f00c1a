"""The bytes that an external tensor refers to."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from innerq_export.errors import CheckpointError


def require_bytes(tensor: ir.ExternalTensor) -> Path:
    """Return the real file of `tensor`; CheckpointError if it is absent or ends before the tensor does."""
    file = Path(tensor.path).resolve()
    size = file.stat().st_size if file.is_file() else None
    end = (tensor.offset or 0) + tensor.nbytes
    if size is None or size < end:
        raise CheckpointError(
            f"the bytes of tensor '{tensor.name}' are missing",
            expected=f"{file} of at least {end} bytes",
            got="no such file" if size is None else f"{size} bytes",
            fix="download, save or build it again, whole",
        )
    return file
