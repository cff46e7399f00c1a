"""A rewritten model in the form that TensorRT-RTX builds fastest: functions inlined, what layers share computed once.

Its builder's time grows with nodes. The ops' bodies compute positions and masks from lengths and sizes alone, which are
the same in every layer, but each body reads the sizes from its own tensors. Dimensions of one name have one size, so
all sizes are read from the first network input that has them; then common subexpressions fall together.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, InlinePass, RemoveUnusedNodesPass

_LARGEST_SHARED_CONSTANT = 4096


def prepare_for_rtx(model: ir.Model) -> ir.Model:
    """Inline all functions of `model` and compute shared terms once, in place; the network computes the same."""
    InlinePass()(model)
    _share_sizes(model.graph)
    CommonSubexpressionEliminationPass(size_limit=_LARGEST_SHARED_CONSTANT)(model)
    RemoveUnusedNodesPass()(model)
    return model


def _share_sizes(graph: ir.Graph) -> None:
    """Let every Shape node that asks for one named dimension ask the first network input that has it."""
    owners: dict[str, tuple[ir.Value, int]] = {}
    for value in graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                owners.setdefault(size.value, (value, axis))
    for node in graph:
        if node.op_type == "Shape" and (owner := owners.get(_dimension_asked(node))):
            node.replace_input_with(0, owner[0])
            node.attributes["start"] = ir.AttrInt64("start", owner[1])
            node.attributes["end"] = ir.AttrInt64("end", owner[1] + 1)


def _dimension_asked(node: ir.Node) -> str:
    """Return the name of the one dimension that a Shape node reads, or ''."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return ""
    start = node.attributes.get_int("start", 0) % shape.rank()
    end = node.attributes.get_int("end", shape.rank())
    size = shape[start]
    single = (end if end >= 0 else end + shape.rank()) == start + 1
    return size.value or "" if single and isinstance(size, ir.SymbolicDim) else ""
