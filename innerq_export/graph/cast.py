"""A checkpoint tensor in another dtype: an ONNX tensor that reads, casts and hands on a piece at a time."""

from __future__ import annotations

from typing import BinaryIO

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from innerq_export.artifacts import TensorRef
from innerq_export.errors import CheckpointError
from innerq_export.graph.pieces import PieceWriter, read_into

PIECE_ITEMS = 1 << 21
CACHED_ITEMS = 1 << 15
"""Cast at a time: they stay in the processor's cache, and PyTorch splits no work of up to so many items."""
SOURCE_DTYPES: dict[str, np.dtype] = {
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
TARGET_DTYPES: dict[ir.DataType, np.dtype] = {ir.DataType.FLOAT16: np.dtype("<f2"), ir.DataType.FLOAT: np.dtype("<f4")}


class CastTensor(ir.LazyTensor):
    """`ref` cast to `dtype` (round half to even) whenever it is asked for; nothing is kept.

    Reading raises CheckpointError that names the tensor when a value is not finite in `dtype`, or the file has shrunk.
    """

    def __init__(self, ref: TensorRef, dtype: ir.DataType) -> None:
        super().__init__(self._whole, dtype=dtype, shape=ir.Shape(ref.shape, frozen=True), name=ref.name)
        self.ref = ref

    def tofile(self, file: BinaryIO) -> None:
        """Write the little-endian bytes to `file`, in pieces."""
        dtype, scratch = TARGET_DTYPES[self.dtype], PIECE_ITEMS * SOURCE_DTYPES[self.ref.dtype].itemsize
        PieceWriter(self.size, dtype, self._make, size=PIECE_ITEMS, scratch=min(scratch, self.ref.nbytes)).write(file)

    def _whole(self) -> ir.Tensor:
        result = np.empty(self.ref.shape, TARGET_DTYPES[self.dtype])
        self._make(0, result.reshape(-1), np.empty(self.ref.nbytes, np.uint8))
        return ir.Tensor(result, name=self.name)

    def _make(self, start: int, result: np.ndarray, scratch: np.ndarray) -> None:
        """Fill `result` with the items of the tensor from `start` on, in row-major order; `scratch`: for the bytes."""
        source = SOURCE_DTYPES[self.ref.dtype]
        raw = scratch[: result.size * source.itemsize]
        if read_into(self.ref.file, self.ref.offset + start * source.itemsize, raw) != raw.size:
            raise CheckpointError(
                f"{self.ref.file}: truncated inside tensor '{self.ref.name}'", fix="download it again"
            )
        for begin in range(0, result.size, CACHED_ITEMS):
            part = slice(begin, begin + CACHED_ITEMS)
            self._cast(self._adjusted(raw.view(source)[part], start + begin), result[part])

    def _adjusted(self, values: np.ndarray, start: int) -> np.ndarray:
        """Return what is cast in the place of `values`, the items of the tensor from `start` on."""
        return values

    def _cast(self, values: np.ndarray, result: np.ndarray) -> None:
        if values.dtype == SOURCE_DTYPES["BF16"]:
            torch.from_numpy(result).copy_(torch.from_numpy(values.view(np.int16)).view(torch.bfloat16))
        else:
            with np.errstate(over="ignore"):
                np.copyto(result, values, casting="unsafe")
        if not _all_finite(result):
            raise CheckpointError(
                f"tensor '{self.ref.name}' of {self.ref.file.name} does not fit {self.dtype.name}",
                expected=f"finite values up to {np.finfo(result.dtype).max:g} in magnitude",
                got=f"{values[~np.isfinite(result)][0]:g}",
                fix="build with dtype float32",
            )


def _all_finite(values: np.ndarray) -> bool:
    """Tell whether no value is infinite or NaN; by bits for fp16, where numpy's isfinite costs more than the cast."""
    if values.dtype == np.float16:
        return not values.size or int((values.view(np.uint16) & 0x7FFF).max()) < 0x7C00
    return bool(np.isfinite(values).all())
