"""A checkpoint tensor in another dtype: an ONNX tensor that reads, casts and hands on a few megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import ml_dtypes
import numpy as np
import onnx_ir as ir

from innerq_export.artifacts import TensorRef
from innerq_export.errors import CheckpointError

CHUNK_ITEMS = 1 << 20
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

    def chunks(self) -> Iterator[np.ndarray]:
        """Yield the values in row-major order, one-dimensional, at most CHUNK_ITEMS at a time."""
        source = SOURCE_DTYPES[self.ref.dtype]
        with self.ref.file.open("rb") as stream:
            stream.seek(self.ref.offset)
            remaining = self.ref.nbytes
            while remaining:
                data = stream.read(min(remaining, CHUNK_ITEMS * source.itemsize))
                if not data or len(data) % source.itemsize:
                    raise CheckpointError(f"{self.ref.file}: truncated inside tensor '{self.ref.name}'")
                remaining -= len(data)
                yield self._cast(np.frombuffer(data, source))

    def tofile(self, file: BinaryIO) -> None:
        """Write the little-endian bytes to `file`, chunk by chunk."""
        for chunk in self.chunks():
            file.write(chunk.tobytes())

    def _whole(self) -> ir.Tensor:
        result = np.empty(self.ref.shape, TARGET_DTYPES[self.dtype])
        flat, start = result.reshape(-1), 0
        for chunk in self.chunks():
            flat[start : start + chunk.size] = chunk
            start += chunk.size
        return ir.Tensor(result, name=self.name)

    def _cast(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            result = values.astype(TARGET_DTYPES[self.dtype])
        if not _all_finite(result):
            raise CheckpointError(
                f"tensor '{self.ref.name}' of {self.ref.file.name} does not fit {self.dtype.name}",
                expected=f"finite values up to {np.finfo(result.dtype).max:g} in magnitude",
                got=f"{values[~np.isfinite(result)][0]:g}",
                fix="build with dtype float32",
            )
        return result


def _all_finite(values: np.ndarray) -> bool:
    """Tell whether no value is infinite or NaN; by bits for fp16, where numpy's isfinite costs more than the cast."""
    if values.dtype == np.float16:
        return not values.size or int((values.view(np.uint16) & 0x7FFF).max()) < 0x7C00
    return bool(np.isfinite(values).all())
