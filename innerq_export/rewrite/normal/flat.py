"""Attention over [B, S, H * D] becomes Attention over [B, H, S, D], with the reshaping around it.

Attention(X, q_num_heads=H)   ->   join(Attention(split(X)))
split(X) = Transpose(Reshape(X, [B, S, H, D]), [0, 2, 1, 3]), join its inverse
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from innerq_export.rewrite.geometry import fixed_size
from innerq_export.rewrite.normal.operands import KEY, QUERY, VALUE, OperandRule, operand
from innerq_export.rewrite.rule import NOT_A_CANDIDATE

_HEADS = {QUERY: "q_num_heads", KEY: "kv_num_heads", VALUE: "kv_num_heads"}
_SWAP = {"perm": (0, 2, 1, 3)}


class FlatAttention(OperandRule):
    """Splits the heads in front of Attention and joins them behind it."""

    def refuse(self, node: ir.Node) -> str | None:
        """Return why operands of rank 3 cannot be split."""
        ranks = [_rank(operand(node, index)) for index in _HEADS]
        if set(ranks) != {3}:
            return NOT_A_CANDIDATE
        for index, attribute in _HEADS.items():
            heads, width = node.attributes.get_int(attribute, 0), _width(operand(node, index))
            if heads < 1 or not isinstance(width, int) or width % heads:
                return f"attribute {attribute} is {heads} for operands of width {width}"
        return None

    def apply(self, graph: ir.Graph, node: ir.Node) -> None:
        """Insert the reshaping; the node keeps its name and attributes but for the numbers of heads."""
        before, after = Tape(), Tape()
        for index, attribute in _HEADS.items():
            flat = operand(node, index)
            assert flat is not None
            node.replace_input_with(index, _split(before, flat, node.attributes.get_int(attribute, 0)))
        graph.insert_before(node, before.nodes)
        for attribute in set(_HEADS.values()):
            del node.attributes[attribute]
        output, uses = node.outputs[0], list(node.outputs[0].uses())
        joined = _join(after, output)
        graph.insert_after(node, after.nodes)
        for use in uses:
            use.node.replace_input_with(use.idx, joined)


def _split(tape: Tape, flat_BSX: ir.Value, heads: int) -> ir.Value:
    """Return [B, H, S, D] of [B, S, H * D]."""
    assert flat_BSX.shape is not None
    batch, tokens = flat_BSX.shape[0], flat_BSX.shape[1]
    shape = tape.op("Constant", [], {"value_ints": [0, 0, heads, -1]})
    split = tape.op("Transpose", [tape.op("Reshape", [flat_BSX, shape])], _SWAP)
    split.type, split.shape = flat_BSX.type, ir.Shape([batch, heads, tokens, fixed_size(flat_BSX, 2) // heads])
    return split


def _join(tape: Tape, output: ir.Value) -> ir.Value:
    """Return [B, S, H * D] of what is now [B, H, S, D], and give both their shapes."""
    shape = tape.op("Constant", [], {"value_ints": [0, 0, -1]})
    joined = tape.op("Reshape", [tape.op("Transpose", [output], _SWAP), shape])
    joined.type, joined.shape, output.shape = output.type, output.shape, None
    return joined


def _rank(value: ir.Value | None) -> int | None:
    return value.shape.rank() if value is not None and value.shape is not None else None


def _width(value: ir.Value | None) -> object:
    return value.shape[2] if value is not None and value.shape is not None else None
