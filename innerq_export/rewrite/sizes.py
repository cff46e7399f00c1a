"""Sizes that nodes ask for: a fixed one is a constant, and a named one has the same value wherever it is asked for."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir


def share_sizes(graph: ir.Graph, owners: Iterable[ir.Value]) -> int:
    """Let every Shape node that asks for one named dimension ask the first of `owners` that has it; return how many.

    A name that one owner has twice says nothing and is left alone.
    """
    places: dict[str, tuple[ir.Value, int]] = {}
    for value in owners:
        names = [size.value if isinstance(size, ir.SymbolicDim) else None for size in value.shape or ()]
        for axis, name in enumerate(names):
            if name is not None and names.count(name) == 1:
                places.setdefault(name, (value, axis))
    count = 0
    for node in graph:
        place = places.get(_dimension_asked(node)) if node.op_type == "Shape" else None
        if place and node.inputs[0] is not place[0]:
            node.replace_input_with(0, place[0])
            node.attributes["start"] = ir.AttrInt64("start", place[1])
            node.attributes["end"] = ir.AttrInt64("end", place[1] + 1)
            count += 1
    return count


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


def fold_fixed_sizes(graph: ir.Graph) -> int:
    """Turn every Gather of one fixed size from a Shape into a constant, in place; return how many."""
    count = 0
    for node in graph:
        size = _fixed_size_asked(node)
        if size is not None:
            constant = ir.node("Constant", [], {"value_int": size}, name=f"{node.name}_{size}")
            constant.outputs[0].type, constant.outputs[0].shape = ir.TensorType(ir.DataType.INT64), ir.Shape([])
            graph.insert_before(node, constant)
            node.outputs[0].replace_all_uses_with(constant.outputs[0])
            count += 1
    return count


def _fixed_size_asked(node: ir.Node) -> int | None:
    """Return the size that Gather(Shape(x), index) reads, if index and size are fixed numbers."""
    shape_node = node.inputs[0].producer() if node.op_type == "Gather" and node.inputs[0] is not None else None
    if shape_node is None or shape_node.op_type != "Shape" or shape_node.attributes:
        return None
    measured = shape_node.inputs[0]
    index = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] is not None else None
    if measured is None or measured.shape is None or index is None or index.shape.rank() != 0:
        return None
    size = measured.shape[int(index.numpy())]
    return size if isinstance(size, int) else None
