"""Weights as they lie on disk: ONNX external tensors over files that were checked when they were opened."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from innerq_export.artifacts import TensorRef

REFERENCED_DTYPES = {"F16": ir.DataType.FLOAT16, "F32": ir.DataType.FLOAT}


class ReferencedTensor(ir.ExternalTensor):
    """An external tensor, mapped when read, never copied.

    onnx_ir refuses to read files with several hard links, lest one leads out of the folder; but engine folders
    hard-link the weights, and these paths come from our own readers. So here that check is left out.
    """

    def _check_path_containment(self) -> None:
        """Accept any path."""


def reference(ref: TensorRef) -> ReferencedTensor:
    """Return `ref` as an ONNX tensor. `path` is the real file (symbolic links resolved), so it can be hard-linked."""
    file = ref.file.resolve()
    dtype = REFERENCED_DTYPES[ref.dtype]
    return _referenced(file, ref.offset, ref.nbytes, dtype, ir.Shape(ref.shape), ref.name)


def written(tensor: ir.TensorProtocol, file: Path, offset: int) -> ReferencedTensor:
    """Return a tensor of the dtype, shape and name of `tensor` whose bytes were written to `file` at `offset`."""
    shape = ir.Shape(tensor.shape.numpy())
    return _referenced(file.resolve(), offset, tensor.nbytes, tensor.dtype, shape, str(tensor.name))


def trusted(tensor: ir.ExternalTensor) -> ReferencedTensor:
    """Return `tensor`, whose path has been checked, as one that stays readable when its file is hard-linked."""
    assert tensor.name is not None
    length = tensor.nbytes if tensor.length is None else tensor.length
    return _referenced(Path(tensor.path).resolve(), tensor.offset or 0, length, tensor.dtype, tensor.shape, tensor.name)


def _referenced(
    file: Path, offset: int, length: int, dtype: ir.DataType, shape: ir.Shape, name: str
) -> ReferencedTensor:
    return ReferencedTensor(file.name, offset, length, dtype, shape=shape, name=name, base_dir=file.parent)
