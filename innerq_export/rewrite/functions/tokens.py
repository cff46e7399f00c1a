"""Which token lies where, as ONNX nodes: the index algebra of SPEC section 2 without a loop or a data-dependent shape.

With S sink tokens, R recent ones and a period P = R + 32:

    q(n)    = max(0, n - S - R) div 32                           quantised blocks of n tokens
    slot(t) = t if t < S else S + (t - S) mod P                  window slot of token t
    tau(w)  = w + P_w * ((n - 1 - w) div P), P_w = P if w >= S   newest token in slot w; none if w >= n

All values are int64. `op` is an onnxscript builder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.spec import GROUP_SIZE, CacheConfig

if TYPE_CHECKING:
    import onnx_ir as ir

NO_TOKEN = -1


def axis_size(op: Any, tensor: ir.Value, axis: int) -> ir.Value:
    """Return the size of one axis, int64 [1]."""
    return op.Shape(tensor, start=axis, end=axis + 1)


def count_up(op: Any, size_1: ir.Value) -> ir.Value:
    """Return 0 .. size - 1, int64 [size]; `size_1` is int64 [1]."""
    return op.Range(0, op.Squeeze(size_1, [0]), 1)


def lengths_before_after(op: Any, past_length_B: ir.Value, new_length_B: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return n before and after the call, int64 [B, 1] each."""
    before_B1 = op.Unsqueeze(op.Cast(past_length_B, to=_INT64), [1])
    new_B1 = op.Unsqueeze(op.Cast(new_length_B, to=_INT64), [1])
    return before_B1, op.Add(before_B1, new_B1)


def held_blocks(op: Any, length: ir.Value, config: CacheConfig) -> ir.Value:
    """Return q(n) for int64 lengths of any shape."""
    return op.Div(op.Max(op.Sub(length, config.sink + config.recent), 0), GROUP_SIZE)


def newest_tokens(op: Any, length_B1: ir.Value, config: CacheConfig) -> ir.Value:
    """Return tau of every window slot, int64 [B, W]; NO_TOKEN where nothing was ever written."""
    period = config.recent + GROUP_SIZE
    slots_W = list(range(config.window_tokens))
    periods_W = [0] * config.sink + [period] * period
    age_BW = op.Sub(op.Sub(length_B1, 1), slots_W)
    token_BW = op.Add(op.Mul(op.Div(op.Max(age_BW, 0), period), periods_W), slots_W)
    return op.Where(op.Less(age_BW, 0), NO_TOKEN, token_BW)


def rows_of_tokens(op: Any, token: ir.Value, before: ir.Value, config: CacheConfig) -> ir.Value:
    """Return where tokens >= S stand in the rows `window ++ new tokens` (W + s of them).

    `token` and `before` (n before the call) are int64 and broadcast.
    """
    period = config.recent + GROUP_SIZE
    old = op.Add(op.Mod(op.Sub(token, config.sink), period), config.sink)
    new = op.Add(op.Sub(token, before), config.window_tokens)
    return op.Where(op.Less(token, before), old, new)


_INT64 = 7
