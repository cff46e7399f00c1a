"""A checkpoint tensor in another dtype: an ONNX tensor that reads, casts and hands on 128 Ki values at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import ml_dtypes
import numpy as np
import onnx_ir as ir

from innerq_export.artifacts import TensorRef
from innerq_export.errors import CheckpointError

CHUNK_ITEMS = 1 << 17
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
        """Yield the values in row-major order, one-dimensional, in one buffer that the next chunk overwrites."""
        source = SOURCE_DTYPES[self.ref.dtype]
        raw = np.empty(CHUNK_ITEMS * source.itemsize, np.uint8)
        result = np.empty(CHUNK_ITEMS, TARGET_DTYPES[self.dtype])
        with self.ref.file.open("rb") as stream:
            stream.seek(self.ref.offset)
            for start in range(0, self.ref.nbytes, raw.size):
                part = raw[: self.ref.nbytes - start]
                if stream.readinto(part.data) != part.size:
                    raise CheckpointError(f"{self.ref.file}: truncated inside tensor '{self.ref.name}'")
                values = self._adjusted(part.view(source), start // source.itemsize)
                self._cast(values, result[: values.size])
                yield result[: values.size]

    def tofile(self, file: BinaryIO) -> None:
        """Write the little-endian bytes to `file`, chunk by chunk."""
        for chunk in self.chunks():
            file.write(chunk.view(np.uint8).data)

    def _adjusted(self, values: np.ndarray, start: int) -> np.ndarray:
        """Return what is cast in the place of `values`, the items of the tensor from `start` on."""
        return values

    def _whole(self) -> ir.Tensor:
        result = np.empty(self.ref.shape, TARGET_DTYPES[self.dtype])
        flat, start = result.reshape(-1), 0
        for chunk in self.chunks():
            flat[start : start + chunk.size] = chunk
            start += chunk.size
        return ir.Tensor(result, name=self.name)

    def _cast(self, values: np.ndarray, result: np.ndarray) -> None:
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
