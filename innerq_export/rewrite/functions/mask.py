"""Which columns a row of InnerQAttention sees, over blocks | window | new tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.tokens import axis_size, count_up, newest_tokens
from innerq_export.spec import GROUP_SIZE, CacheConfig

if TYPE_CHECKING:
    import onnx_ir as ir

_INT64 = 7


def visible_columns(
    op: Any,
    before_B1: ir.Value,
    after_B1: ir.Value,
    held_B1: ir.Value,
    new_1: ir.Value,
    blocks_1: ir.Value,
    config: CacheConfig,
) -> ir.Value:
    """Return bool [B, 1, s, N * 32 + W + s]; `held_B1` is q(n) after the call, `new_1` s and `blocks_1` N, int64 [1].

    Every row sees at least its own token, padding too.
    """
    quantised_B1 = op.Mul(held_B1, GROUP_SIZE)
    column_C = count_up(op, op.Mul(blocks_1, GROUP_SIZE))
    older_BC = op.Less(op.Add(column_C, config.sink), before_B1)
    in_block_BC = op.And(op.Less(column_C, quantised_B1), older_BC)
    past_BP = op.Concat(in_block_BC, _window_slots(op, before_B1, after_B1, quantised_B1, config), axis=1)

    row_S = count_up(op, new_1)
    causal_SS = op.LessOrEqual(row_S, op.Unsqueeze(row_S, [1]))
    past = op.Expand(op.Unsqueeze(past_BP, [1, 2]), op.Concat([1, 1], new_1, [1], axis=0))
    new = op.Expand(op.Unsqueeze(causal_SS, [0, 1]), op.Concat(axis_size(op, before_B1, 0), [1, 1, 1], axis=0))
    return op.Concat(past, new, axis=3)


def real_rows(op: Any, new_length_B: ir.Value, new_1: ir.Value) -> ir.Value:
    """Return bool [B, 1, s, 1]: the row is a token, not padding."""
    row_S1 = op.Unsqueeze(count_up(op, new_1), [1])
    return op.Less(row_S1, op.Unsqueeze(op.Cast(new_length_B, to=_INT64), [1, 2, 3]))


def _window_slots(
    op: Any, before_B1: ir.Value, after_B1: ir.Value, quantised_B1: ir.Value, config: CacheConfig
) -> ir.Value:
    """Return bool [B, W]: the slot holds a token from before the call that is in no block."""
    token_BW = newest_tokens(op, after_B1, config)
    written_before = op.And(op.GreaterOrEqual(token_BW, 0), op.Less(token_BW, before_B1))
    in_full = op.Or(op.Less(token_BW, config.sink), op.GreaterOrEqual(op.Sub(token_BW, config.sink), quantised_B1))
    return op.And(written_before, in_full)
