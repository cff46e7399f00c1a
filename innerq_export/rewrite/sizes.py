"""Dimensions of one name have one size: whoever asks for it may ask the first network input that has it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir


def share_sizes(graph: ir.Graph, owners: Iterable[ir.Value]) -> int:
    """Let every Shape node that asks for one named dimension ask the first of `owners` that has it; return how many."""
    places: dict[str, tuple[ir.Value, int]] = {}
    for value in owners:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                places.setdefault(size.value, (value, axis))
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
