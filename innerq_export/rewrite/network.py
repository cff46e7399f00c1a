"""Inputs and outputs of the rewritten network, by the names of ARCHITECTURE ("Network inputs")."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from innerq_export.errors import RewriteError

LENGTHS = ("past_length", "new_length")
KEPT_INPUTS = ("input_ids", "position_ids")


def add_lengths(model: ir.Model) -> tuple[ir.Value, ir.Value]:
    """Add the inputs past_length and new_length, int32 [B]; RewriteError if the graph has such inputs already."""
    taken = {value.name for value in model.graph.inputs}
    for name in LENGTHS:
        if name in taken:
            raise RewriteError(
                f"the graph already has an input '{name}'",
                expected="a decoder before its rewrite",
                got=", ".join(sorted(str(known) for known in taken)),
                fix="give the model as it was exported, not one that was rewritten",
            )
    past, new = (ir.Value(name=name, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(["B"])) for name in LENGTHS)
    model.graph.inputs.extend([past, new])
    return past, new


def add_cache(model: ir.Model, past: Sequence[ir.Value], present: Sequence[ir.Value]) -> None:
    """Append the cache's tensors, layer by layer, to the network's inputs and outputs."""
    model.graph.inputs.extend(past)
    model.graph.outputs.extend(present)


def drop_unread_inputs(model: ir.Model) -> tuple[str, ...]:
    """Remove inputs that no node reads (masks), keep input_ids and position_ids; return the names removed."""
    unread = [value for value in model.graph.inputs if not value.uses() and value.name not in KEPT_INPUTS]
    for value in unread:
        model.graph.inputs.remove(value)
    return tuple(str(value.name) for value in unread)
