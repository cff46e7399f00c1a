"""A checkpoint tensor as it lies: an ONNX external tensor over the bytes of the safetensors file."""

from __future__ import annotations

import onnx_ir as ir

from innerq_export.artifacts import TensorRef

REFERENCED_DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}


class ReferencedTensor(ir.ExternalTensor):
    """`ref`, mapped when read, never copied. `path` is the real file (links resolved), so it can be hard-linked.

    onnx_ir refuses to read external files with several hard links, but engine folders hard-link the checkpoint. Which
    file this is was checked when the checkpoint was opened, so that check is left out.
    """

    def __init__(self, ref: TensorRef) -> None:
        file = ref.file.resolve()
        super().__init__(
            file.name,
            ref.offset,
            ref.nbytes,
            REFERENCED_DTYPES[ref.dtype],
            shape=ir.Shape(ref.shape),
            name=ref.name,
            base_dir=file.parent,
        )

    def _check_path_containment(self) -> None:
        """Accept any path: it comes from the checkpoint reader."""
