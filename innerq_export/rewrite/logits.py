"""Logits of one token per row instead of all: rows are chosen before the last product, which is the largest of all.

    (H W)[last]   =   H[last] W,   last = max(new_length, 1) - 1

because the product and the arithmetic after it act on every row alone.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.tape import Tape

from innerq_export.errors import RewriteError

OUTPUT = "logits"
_ROW_WISE = ("Add", "Sub", "Mul", "Div", "Tanh", "Cast", "Identity")


def keep_last_logits(model: ir.Model, new_length_B: ir.Value) -> str:
    """Make the output `logits` [B, 1, V], of token new_length - 1 of each row; return the name of the value cut.

    RewriteError if there is no such output or it is not [B, S, V].
    """
    logits = next((value for value in model.graph.outputs if value.name == OUTPUT), None)
    if logits is None or logits.shape is None or logits.shape.rank() != 3 or logits.producer() is None:
        raise RewriteError(
            f"the graph has no output '{OUTPUT}' [B, S, V]",
            expected=f"'{OUTPUT}' of rank 3, made by a node",
            got=", ".join(f"{value.name} {value.shape}" for value in model.graph.outputs),
            fix="rename the output that holds the next-token scores, or ask for all logits",
        )
    rows, chain = _cut(logits)
    tape = Tape()
    kept = _last_row(tape, rows, new_length_B)
    if chain:
        model.graph.insert_before(chain[0], tape.nodes)
        chain[0].replace_input_with(list(chain[0].inputs).index(rows), kept)
    else:
        model.graph.insert_after(_producer(logits), tape.nodes)
        model.graph.outputs[list(model.graph.outputs).index(logits)] = kept
        logits.name, kept.name = f"{OUTPUT}_of_all_tokens", OUTPUT
    for value in (kept, *(node.outputs[0] for node in chain)):
        value.shape = ir.Shape(["B", 1, _width(rows if value is kept else value)])
    return str(rows.name)


def _cut(logits: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """Return the value whose rows are chosen and the nodes from there to `logits`, the product first."""
    chain: list[ir.Node] = []
    value = logits
    while True:
        node = _producer(value)
        inputs = [operand for operand in node.inputs if operand is not None and _is_computed(operand)]
        chain.insert(0, node)
        if len(inputs) != 1 or inputs[0].shape is None or inputs[0].shape.rank() != 3:
            return logits, []
        if node.op_type == "MatMul" and node.inputs[0] is inputs[0]:
            return inputs[0], chain
        if node.op_type not in _ROW_WISE or len(inputs[0].uses()) != 1 or inputs[0].producer() is None:
            return logits, []
        value = inputs[0]


def _is_computed(value: ir.Value) -> bool:
    """Whether a value depends on the network's inputs; a weight, transposed or cast, does not."""
    if value.is_initializer() or value.const_value is not None:
        return False
    node = value.producer()
    return node is None or any(_is_computed(operand) for operand in node.inputs if operand is not None)


def _last_row(tape: Tape, rows_BSX: ir.Value, new_length_B: ir.Value) -> ir.Value:
    """Return row max(new_length, 1) - 1 of each sequence, [B, 1, X]."""
    one = tape.op("Constant", [], {"value_int": 1})
    axes = tape.op("Constant", [], {"value_ints": [1, 2]})
    length_B = tape.op("Cast", [new_length_B], {"to": ir.DataType.INT64})
    last_B = tape.op("Sub", [tape.op("Max", [length_B, one]), one])
    index_B11 = tape.op("Unsqueeze", [last_B, axes])
    kept = tape.op("GatherND", [rows_BSX, index_B11], {"batch_dims": 1})
    kept.name, kept.type = f"{rows_BSX.name}_last", rows_BSX.type
    return kept


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    assert node is not None
    return node


def _width(value: ir.Value) -> int | ir.SymbolicDim | None:
    return value.shape[2] if value.shape is not None else None
