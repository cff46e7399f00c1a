"""What a standard `Attention` node is: whether it is causal self-attention of the model's sizes that the ops can do."""

from __future__ import annotations

import onnx_ir as ir

from innerq_export.artifacts import ModelShape
from innerq_export.rewrite.geometry import Geometry
from innerq_export.rewrite.normal.operands import MASK, attention_output_only, operand
from innerq_export.spec import GROUP_SIZE

_DTYPES = (ir.DataType.FLOAT16, ir.DataType.FLOAT)


def geometry_of(node: ir.Node, shape: ModelShape) -> Geometry:
    """Return the sizes of an Attention node that `refuse_shapes` let pass."""
    dtype = _dtype(node)
    assert dtype is not None
    scale = node.attributes.get_float("scale", 0.0) or shape.head_dim**-0.5
    return Geometry(shape.heads, shape.kv_heads, shape.head_dim, float(scale), dtype)


def refuse_shapes(node: ir.Node, shape: ModelShape) -> str | None:
    """Return why the operands are not [B, H, S, D] of the model's sizes, or None. Sizes may be unknown, ranks not."""
    for index, (name, heads) in enumerate([("query", shape.heads), ("key", shape.kv_heads), ("value", shape.kv_heads)]):
        value = operand(node, index)
        if value is None or value.shape is None or value.shape.rank() != 4:
            return f"its {name} is not known to be [B, H, S, D]: {value and value.shape}"
        for axis, expected, what in ((1, heads, "heads"), (3, shape.head_dim, "channels per head")):
            size = value.shape[axis]
            if isinstance(size, int) and size != expected:
                return f"its {name} has {size} {what}, not the model's {expected}"
    if _dtype(node) not in _DTYPES:
        return f"it computes in {_dtype(node)}, not in float16 or float32"
    return f"head dim {shape.head_dim} is not a multiple of {GROUP_SIZE}" if shape.head_dim % GROUP_SIZE else None


def refuse_features(node: ir.Node) -> str | None:
    """Return the first feature of the node that InnerQAttention has not, or None."""
    if any(value is not None for value in node.inputs[MASK + 1 :]):
        return "it has a past of its own"
    if not attention_output_only(node):
        return "its present or its scores are read by other nodes"
    if node.attributes.get_float("softcap", 0.0):
        return f"softcap {node.attributes.get_float('softcap')} is not supported"
    if operand(node, MASK) is None and not node.attributes.get_int("is_causal", 0):
        return "it is not causal: no mask and is_causal is 0"
    return None


def _dtype(node: ir.Node) -> ir.DataType | None:
    return next((value.dtype for value in (*node.inputs[:3], *node.outputs[:1]) if value and value.dtype), None)
