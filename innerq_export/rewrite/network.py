"""Inputs and outputs of the rewritten network, by the names of ARCHITECTURE ("Network inputs")."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from innerq_export.errors import RewriteError
from innerq_export.rewrite.logits import OUTPUT
from innerq_export.rewrite.sizes import share_sizes

LENGTHS = ("past_length", "new_length")
IDS, POSITIONS = "input_ids", "position_ids"


class Network:
    """The interface of one model while it is rewritten; `dropped` names the inputs and outputs it no longer has."""

    def __init__(self, model: ir.Model) -> None:
        """Keep `logits` alone of the outputs, and read B and S from input_ids wherever they are asked for."""
        self.graph = model.graph
        self.dropped: tuple[str, ...] = ()
        self._drop_outputs()
        self._own = {IDS, POSITIONS, *LENGTHS}
        ids = next((value for value in self.graph.inputs if value.name == IDS), None)
        if ids is None:
            raise RewriteError(
                "the graph has no input 'input_ids' [B, S]",
                got=self._names(self.graph.inputs),
                fix="export it again with token ids as its input",
            )
        share_sizes(self.graph, [ids])

    def add_lengths(self) -> tuple[ir.Value, ir.Value]:
        """Add the inputs past_length and new_length, int32 [B]; RewriteError if the graph has such inputs already."""
        taken = {value.name for value in self.graph.inputs}
        for name in LENGTHS:
            if name in taken:
                raise RewriteError(
                    f"the graph already has an input '{name}'",
                    expected="a decoder before its rewrite",
                    got=self._names(self.graph.inputs),
                    fix="give the model as it was exported, not one that was rewritten",
                )
        past, new = (
            ir.Value(name=name, type=ir.TensorType(ir.DataType.INT32), shape=ir.Shape(["B"])) for name in LENGTHS
        )
        self.graph.inputs.extend([past, new])
        self.new_length_B = new
        return past, new

    def add_cache(self, past: Sequence[ir.Value], present: Sequence[ir.Value]) -> None:
        """Append the cache's tensors, layer by layer, to inputs and outputs."""
        self.graph.inputs.extend(past)
        self.graph.outputs.extend(present)
        self._own |= {str(value.name) for value in past}

    def close(self) -> None:
        """Drop inputs that nobody reads any more; RewriteError when a foreign one is still read."""
        for value in list(self.graph.inputs):
            if value.name in self._own:
                continue
            if value.uses():
                reader = next(iter(value.uses())).node
                raise RewriteError(
                    f"input '{value.name}' is still needed, by {reader.op_type} '{reader.name}'",
                    expected=f"a decoder that needs {IDS} and {POSITIONS} only",
                    got=f"{value.name} {value.dtype} {value.shape}",
                    fix="export the text decoder alone",
                )
            self.graph.inputs.remove(value)
            self.dropped += (str(value.name),)
        self._name_axes()

    def _drop_outputs(self) -> None:
        for value in list(self.graph.outputs):
            if value.name != OUTPUT:
                self.graph.outputs.remove(value)
                self.dropped += (str(value.name),)

    def _name_axes(self) -> None:
        """Name the axes of ids and positions B and S, and those of the logits."""
        for value in self.graph.inputs:
            if value.name in (IDS, POSITIONS):
                value.shape = ir.Shape(["B", "S"])
        logits = next(value for value in self.graph.outputs if value.name == OUTPUT)
        if logits.shape is not None:
            rows = 1 if logits.shape[1] == 1 else "S"
            logits.shape = ir.Shape(["B", rows, logits.shape[2]])

    @staticmethod
    def _names(values: Sequence[ir.Value]) -> str:
        return ", ".join(str(value.name) for value in values)
