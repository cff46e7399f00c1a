"""The body of InnerQAttention in standard ops: SPEC section 7, over the columns blocks | window | new tokens.

A row i sees a column when it is a token before the call that the cache really holds there, or a new token j <= i:

    block column c     token S + c       seen if token < past and c < 32 q(n)
    window slot w      token tau(w)      seen if tau(w) < past and it is not in a block
    new token j        token past + j    seen if j <= i

Keys in blocks are K / lambda, so lambda multiplies either the keys or, for them alone, the query.
Query heads that share a KV head are rows of one product: nothing is expanded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.blocks import block_keys, block_values
from innerq_export.rewrite.functions.mask import visible_columns
from innerq_export.rewrite.functions.tokens import axis_size, lengths_before_after
from innerq_export.spec import CacheConfig, has_zeros

if TYPE_CHECKING:
    import onnx_ir as ir

FLAVOURS = ("matmul", "attention")
_FLOAT = 1
_UNSEEN = -3.0e38


def attention_body(op: Any, inputs: list[ir.Value], config: CacheConfig, scale: float, flavour: str) -> ir.Value:
    """Trace InnerQAttention: `inputs` in the order of the op table, logical layout; returns [B, Hq, S, D]."""
    query_BHqSD, key_BHkvSD, value_BHkvSD, past_length_B, new_length_B, window, key_norm, *blocks = inputs
    before_B1, after_B1 = lengths_before_after(op, past_length_B, new_length_B)
    seen = visible_columns(op, before_B1, after_B1, axis_size(op, key_BHkvSD, 2), axis_size(op, blocks[0], 2), config)

    split = 3 if has_zeros(config.key_mode) else 2
    held_key = block_keys(op, blocks[:split], config)
    held_value = block_values(op, blocks[split:], config)
    window_key, window_value = op.Split(window, axis=1, num_outputs=2, _outputs=2)
    recent_key = op.Concat(op.Squeeze(window_key, [1]), key_BHkvSD, axis=2)
    recent_value = op.Concat(op.Squeeze(window_value, [1]), value_BHkvSD, axis=2)
    if flavour == "attention":
        held_key = op.Mul(held_key, op.Unsqueeze(op.Cast(key_norm, to=_FLOAT), [2]))
        return _with_attention_op(op, query_BHqSD, [held_key, recent_key], [held_value, recent_value], seen, scale)
    query = op.Mul(op.Cast(query_BHqSD, to=_FLOAT), scale)
    queries = _share_heads(op, query, key_norm)
    return _with_matmul(op, queries, [held_key, recent_key], [held_value, recent_value], seen, query_BHqSD, key_norm.shape[1])


def _with_attention_op(op: Any, query: ir.Value, keys: list, values: list, seen: ir.Value, scale: float) -> ir.Value:
    """One standard Attention in the type of the query: the form that TensorRT-RTX builds."""
    key = op.Concat(*[op.Cast(part, to=query.dtype) for part in keys], axis=2)
    value = op.Concat(*[op.Cast(part, to=query.dtype) for part in values], axis=2)
    return op.Attention(query, key, value, seen, scale=scale)


def _share_heads(op: Any, query_BHqSD: ir.Value, key_norm_BHkvD: ir.Value) -> list[ir.Value]:
    """Return the query for the blocks (times lambda) and for full precision, [B, Hkv, Hq / Hkv * S, D] each."""
    kv_heads, head_dim = key_norm_BHkvD.shape[1:]
    grouped = op.Reshape(query_BHqSD, [0, kv_heads, -1, head_dim])
    return [op.Mul(grouped, op.Unsqueeze(op.Cast(key_norm_BHkvD, to=_FLOAT), [2])), grouped]


def _with_matmul(
    op: Any,
    queries: list[ir.Value],
    keys: list[ir.Value],
    values: list[ir.Value],
    seen: ir.Value,
    like: ir.Value,
    kv_heads: int,
) -> ir.Value:
    """Products and softmax in fp32; the result has shape and type of `like`."""
    keys, values = ([op.Cast(part, to=_FLOAT) for part in parts] for parts in (keys, values))
    products = [op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])) for q, k in zip(queries, keys, strict=True)]
    by_head = op.Reshape(op.Concat(*products, axis=3), op.Concat(_head_shape(op, like), [-1], axis=0))
    weights = op.Softmax(op.Where(seen, by_head, _UNSEEN), axis=3)
    grouped = op.Reshape(weights, op.Concat([0, kv_heads, -1], axis_size(op, by_head, 3), axis=0))
    widths = op.Concat(*[axis_size(op, k, 2) for k in keys], axis=0)
    parts = op.Split(grouped, widths, axis=3, _outputs=2)
    output = op.Add(*[op.MatMul(weight, value) for weight, value in zip(parts, values, strict=True)])
    return op.Cast(op.Reshape(output, op.Shape(like)), to=like.dtype)


def _head_shape(op: Any, query_BHqSD: ir.Value) -> ir.Value:
    return op.Shape(query_BHqSD, start=0, end=3)
