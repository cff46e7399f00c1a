"""The sequence `window ++ new tokens` of keys and values, read by computed rows with one Gather."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.tokens import axis_size, count_up
from innerq_export.rewrite.geometry import fixed_size

if TYPE_CHECKING:
    import onnx_ir as ir


class Rows:
    """W + s rows per sequence, plane (key or value) and KV head."""

    def __init__(self, op: Any, window_B2HkvWD: ir.Value, key_BHkvSD: ir.Value, value_BHkvSD: ir.Value):
        new_B2HkvSD = op.Concat(op.Unsqueeze(key_BHkvSD, [1]), op.Unsqueeze(value_BHkvSD, [1]), axis=1)
        self.op = op
        self.kv_heads, self.head_dim = fixed_size(key_BHkvSD, 1), fixed_size(key_BHkvSD, 3)
        self.rows_B2HkvRD = op.Concat(window_B2HkvWD, new_B2HkvSD, axis=3)
        self.batch_1 = axis_size(op, key_BHkvSD, 0)
        self.count_1 = axis_size(op, self.rows_B2HkvRD, 3)

    def read(self, row_BT: ir.Value) -> ir.Value:
        """Return rows [B, 2, Hkv, T, D] of every head; a row out of range is clamped, never read outside."""
        op = self.op
        planes = 2 * self.kv_heads
        safe_BT = op.Min(op.Max(row_BT, 0), op.Sub(self.count_1, 1))
        sequence_B1 = op.Unsqueeze(count_up(op, self.batch_1), [1])
        plane_BP = op.Add(op.Mul(sequence_B1, planes), list(range(planes)))
        first_row_BP1 = op.Unsqueeze(op.Mul(plane_BP, self.count_1), [2])
        row_BPT = op.Add(first_row_BP1, op.Unsqueeze(safe_BT, [1]))
        flat_rows = op.Reshape(self.rows_B2HkvRD, [-1, self.head_dim])
        shape = op.Concat(self.batch_1, [2, self.kv_heads, -1, self.head_dim], axis=0)
        return op.Reshape(op.Gather(flat_rows, row_BPT, axis=0), shape)
