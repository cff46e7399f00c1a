"""The sequence `window ++ new tokens` of keys and values, read by computed rows with one Gather."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.tokens import axis_size, count_up
from innerq_export.rewrite.geometry import fixed_size

if TYPE_CHECKING:
    import onnx_ir as ir


class Rows:
    """W + s rows per sequence and plane; the 2 * Hkv planes are the keys of each KV head, then the values."""

    def __init__(
        self, op: Any, window_B2HkvWD: ir.Value, key_BHkvSD: ir.Value, value_BHkvSD: ir.Value, window_tokens: int
    ):
        self.op = op
        self.planes, self.head_dim = 2 * fixed_size(key_BHkvSD, 1), fixed_size(key_BHkvSD, 3)
        window_BPWD = op.Reshape(window_B2HkvWD, [0, self.planes, window_tokens, self.head_dim])
        self.rows_BPRD = op.Concat(window_BPWD, op.Concat(key_BHkvSD, value_BHkvSD, axis=1), axis=2)
        self.batch_1 = axis_size(op, key_BHkvSD, 0)
        self.count_1 = op.Add(axis_size(op, key_BHkvSD, 2), window_tokens)

    def read(self, row_BT: ir.Value) -> ir.Value:
        """Return rows [B, P, T, D] of every plane; a row out of range is clamped, never read outside."""
        op = self.op
        safe_BT = op.Min(op.Max(row_BT, 0), op.Sub(self.count_1, 1))
        sequence_B1 = op.Unsqueeze(count_up(op, self.batch_1), [1])
        plane_BP = op.Add(op.Mul(sequence_B1, self.planes), list(range(self.planes)))
        first_row_BP1 = op.Unsqueeze(op.Mul(plane_BP, self.count_1), [2])
        row_BPT = op.Add(first_row_BP1, op.Unsqueeze(safe_BT, [1]))
        return op.Gather(op.Reshape(self.rows_BPRD, [-1, self.head_dim]), row_BPT, axis=0)
