"""Softmax attention of a query over runs of columns, blocks then window and new tokens, in two forms.

Keys in blocks are K / lambda, so lambda multiplies either these keys or, for them alone, the query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.tokens import axis_size
from innerq_export.rewrite.geometry import fixed_size

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT = 1
_UNSEEN = -3.0e38


@dataclass(frozen=True)
class Columns:
    """Keys and values of a run of columns, [B, Hkv, T, D]."""

    key: ir.Value
    value: ir.Value


def with_attention_op(
    op: Any,
    query: ir.Value,
    key_norm_BHkvD: ir.Value,
    held: Columns,
    recent: list[Columns],
    seen: ir.Value,
    scale: float,
) -> ir.Value:
    """One standard Attention in the type of the query: the form that TensorRT-RTX has a kernel for."""
    lambda_BHkv1D = op.Unsqueeze(op.Cast(key_norm_BHkvD, to=_FLOAT), [2])
    held_key = op.Cast(op.Mul(held.key, lambda_BHkv1D), to=query.dtype)
    key = op.Concat(held_key, *(columns.key for columns in recent), axis=2)
    value = op.Concat(op.Cast(held.value, to=query.dtype), *(columns.value for columns in recent), axis=2)
    return op.Attention(query, key, value, seen, scale=scale)


def with_products(
    op: Any,
    query: ir.Value,
    key_norm_BHkvD: ir.Value,
    held: Columns,
    recent: list[Columns],
    seen: ir.Value,
    scale: float,
) -> ir.Value:
    """Products and softmax in fp32, the fastest form on ONNX Runtime's CPU; the result is fp32.

    Query heads that share a KV head are rows of one product, [B, Hkv, Hq / Hkv * S, D]: nothing is expanded.
    """
    kv_heads, head_dim = fixed_size(key_norm_BHkvD, 1), fixed_size(key_norm_BHkvD, 2)
    rows = op.Reshape(op.Mul(op.Cast(query, to=_FLOAT), scale), [0, kv_heads, -1, head_dim])
    held_rows = op.Mul(rows, op.Unsqueeze(op.Cast(key_norm_BHkvD, to=_FLOAT), [2]))
    recent_key = op.Cast(op.Concat(*(columns.key for columns in recent), axis=2), to=_FLOAT)
    recent_value = op.Cast(op.Concat(*(columns.value for columns in recent), axis=2), to=_FLOAT)
    scores = op.Concat(_product(op, held_rows, held.key), _product(op, rows, recent_key), axis=3)
    by_head = op.Reshape(scores, op.Concat(op.Shape(query, start=0, end=3), [-1], axis=0))
    weights = op.Softmax(op.Where(seen, by_head, _UNSEEN), axis=3)
    by_kv_head = op.Reshape(weights, op.Concat([0, kv_heads, -1], axis_size(op, by_head, 3), axis=0))
    widths = op.Concat(axis_size(op, held.key, 2), axis_size(op, recent_key, 2), axis=0)
    held_weights, recent_weights = op.Split(by_kv_head, widths, axis=3, _outputs=2)
    held_sum = op.MatMul(held_weights, held.value)
    output = op.Add(held_sum, op.MatMul(recent_weights, recent_value))
    return op.Reshape(output, op.Shape(query))


def _product(op: Any, rows: ir.Value, key: ir.Value) -> ir.Value:
    """Return rows K^T."""
    return op.MatMul(rows, op.Transpose(key, perm=[0, 1, 3, 2]))
