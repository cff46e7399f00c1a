"""What a standard `Attention` node is: its sizes, and whether it is causal self-attention that the ops can do."""

from __future__ import annotations

import onnx_ir as ir

from innerq_export.rewrite.geometry import Geometry, fixed_size
from innerq_export.spec import GROUP_SIZE

_DTYPES = (ir.DataType.FLOAT16, ir.DataType.FLOAT)
_OPERANDS = ("query", "key", "value")


def geometry_of(node: ir.Node) -> Geometry:
    """Return the sizes of an Attention node that `refuse_shapes` let pass."""
    query, key = _operand(node, 0), _operand(node, 1)
    head_dim = fixed_size(query, 3)
    scale = node.attributes.get_float("scale", 0.0) or head_dim**-0.5
    assert query.dtype is not None
    return Geometry(fixed_size(query, 1), fixed_size(key, 1), head_dim, float(scale), query.dtype)


def refuse_shapes(node: ir.Node) -> str | None:
    """Return why the operands are not [B, H, S, D] of sizes the ops take, or None."""
    for index, name in enumerate(_OPERANDS):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None or value.shape is None or value.shape.rank() != 4:
            return f"the shape of its {name} is not known to be [B, H, S, D]: {value and value.shape}"
        if not all(isinstance(value.shape[axis], int) for axis in (1, 3)):
            return f"heads and head dim of its {name} are not fixed numbers: {value.shape}"
        if value.dtype not in _DTYPES:
            return f"its {name} is {value.dtype}, not float16 or float32"
    heads, kv_heads, value_heads = (fixed_size(_operand(node, index), 1) for index in range(3))
    head_dims = [fixed_size(_operand(node, index), 3) for index in range(3)]
    if kv_heads != value_heads or len(set(head_dims)) > 1:
        return f"key and value differ: {kv_heads} and {value_heads} heads, head dims {head_dims}"
    if heads % kv_heads:
        return f"{heads} query heads cannot share {kv_heads} key/value heads"
    return f"head dim {head_dims[0]} is not a multiple of {GROUP_SIZE}" if head_dims[0] % GROUP_SIZE else None


def refuse_features(node: ir.Node) -> str | None:
    """Return the first feature of the node that InnerQAttention has not, or None."""
    if len(node.inputs) > 4 and any(value is not None for value in node.inputs[4:]):
        return "it has a past of its own"
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return "its present or scores are read by other nodes"
    if node.attributes.get_float("softcap", 0.0):
        return f"softcap {node.attributes.get_float('softcap')} is not supported"
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is None and not node.attributes.get_int("is_causal", 0):
        return "it is not causal: no mask and is_causal is 0"
    return None


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
