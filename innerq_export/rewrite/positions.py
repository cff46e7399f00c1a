"""Where the network reads token positions: from the input position_ids, which says past + 0, 1, 2, ...

A decoder exported without a cache may count its tokens itself. That is right for a first call only. So whatever counts
0, 1, .. S - 1 along one axis, where it becomes an angle (Cast to float) or the index into a table (Gather), is replaced
by position_ids with the same axes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from innerq_export.errors import RewriteError
from innerq_export.rewrite.evaluate import NotComputableError, evaluate, leaves_of

INPUT = "position_ids"
_SIZES = ((2, 7), (3, 11))


def read_positions_from_input(model: ir.Model) -> int:
    """Replace what counts tokens by position_ids, in place; return the number of places.

    Adds the input where it is missing. RewriteError when nothing in the network reads positions afterwards.
    """
    position_ids = _input(model)
    count = 0
    for node, index in list(_readers(model.graph)):
        counted = node.inputs[index]
        axis = _counting_axis(model, counted, position_ids) if counted is not None else None
        if axis is not None and counted is not None:
            node.replace_input_with(index, _with_axes(model.graph, node, position_ids, counted, axis))
            count += 1
    if not position_ids.uses():
        raise RewriteError(
            "the network reads token positions from nowhere",
            expected=f"an input '{INPUT}' [B, S], or positions counted from 0",
            got="neither: a token of a later call would not know its place",
            fix=f"export the model with '{INPUT}' as an input",
        )
    return count


def _input(model: ir.Model) -> ir.Value:
    found = next((value for value in model.graph.inputs if value.name == INPUT), None)
    if found is None:
        found = ir.Value(name=INPUT, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["B", "S"]))
        model.graph.inputs.insert(1, found)
    return found


def _readers(graph: ir.Graph) -> Iterator[tuple[ir.Node, int]]:
    """Yield the places where integers become angles or indices of a table."""
    for node in graph:
        operand = node.inputs[0] if node.inputs else None
        if node.op_type == "Cast" and _is_integer(operand) and not _is_integer(node.outputs[0]):
            yield node, 0
        elif node.op_type == "Gather" and operand is not None and operand.is_initializer():
            yield node, 1
        elif node.op_type == "RotaryEmbedding" and len(node.inputs) > 3 and node.inputs[3] is not None:
            yield node, 3


def _is_integer(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_integer()


def _counting_axis(model: ir.Model, value: ir.Value, position_ids: ir.Value) -> int | None:
    """Return the axis along which `value` counts 0 .. S - 1 by itself, or None."""
    if value.is_graph_input() or value.is_initializer() or position_ids in leaves_of(value):
        return None
    axes = set()
    for batch, tokens in _SIZES:
        try:
            array = evaluate(model, value, batch, tokens)
        except NotComputableError:
            return None
        axes.add(next((axis for axis in range(1, array.ndim) if _counts(array, axis, tokens)), None))
    return axes.pop() if len(axes) == 1 else None


def _counts(array: np.ndarray, axis: int, tokens: int) -> bool:
    """Whether `array` is 0 .. tokens - 1 along `axis`, equal in all sequences (axis 0), and 1 long elsewhere."""
    others = [size for index, size in enumerate(array.shape) if index not in (0, axis)]
    if array.shape[axis] != tokens or any(size != 1 for size in others):
        return False
    return bool((array.reshape(-1, tokens) == np.arange(tokens)).all())


def _with_axes(graph: ir.Graph, reader: ir.Node, position_ids: ir.Value, counted: ir.Value, axis: int) -> ir.Value:
    """Return position_ids as a value of the rank of `counted`, its tokens along `axis`."""
    rank = counted.shape.rank() if counted.shape is not None else axis + 1
    added = [index for index in range(rank) if index not in (0, axis)]
    tape = Tape()
    value = position_ids
    if added:
        value = tape.op("Unsqueeze", [position_ids, tape.op("Constant", [], {"value_ints": added})])
    if counted.dtype not in (None, ir.DataType.INT64):
        value = tape.op("Cast", [value], {"to": counted.dtype})
    value.type = counted.type
    graph.insert_before(reader, tape.nodes)
    return value
