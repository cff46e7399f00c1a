"""A checkpoint tensor whose rows are multiplied by constants, and cast, while it is read."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from innerq_export.artifacts import TensorRef
from innerq_export.graph.cast import CastTensor


class ScaledTensor(CastTensor):
    """`ref` with row r (of the first axis; of a tensor seen flat if it has one axis) times `factor_R[r]`, fp64.

    The product is made in fp64 and rounded once, to `dtype`. R must divide the number of items; a factor serves as many
    consecutive items as fit. Errors are those of CastTensor.
    """

    def __init__(self, ref: TensorRef, dtype: ir.DataType, factor_R: np.ndarray) -> None:
        super().__init__(ref, dtype)
        self._factor_R = factor_R
        self._row_items = int(np.prod(ref.shape, dtype=np.int64)) // len(factor_R)

    def _adjusted(self, values: np.ndarray, start: int) -> np.ndarray:
        rows = np.arange(start, start + values.size) // self._row_items
        return values.astype(np.float64) * self._factor_R[rows]
