"""Key/value heads that were repeated for their query heads, as they were before.

    Reshape(Expand(Unsqueeze(X [B, Hkv, T, D], 2)), [B, Hq, T, D])   ->   X

With the new axis behind the heads, query head h reads head h // (Hq / Hkv): what Attention does for fewer heads itself.
"""

from __future__ import annotations

import onnx_ir as ir

from innerq_export.rewrite.normal.operands import KEY, VALUE, OperandRule, operand
from innerq_export.rewrite.normal.walk import integers, producer
from innerq_export.rewrite.rule import NOT_A_CANDIDATE

_BEHIND_HEADS = ([2], [-3])


class SharedHeads(OperandRule):
    """Gives Attention the heads before their expansion; both operands must be expanded, or neither."""

    def refuse(self, node: ir.Node) -> str | None:
        """Return why an expansion cannot be undone."""
        sources = [_unexpanded(operand(node, index)) for index in (KEY, VALUE)]
        if sources == [None, None]:
            return NOT_A_CANDIDATE
        for name, source in zip(("key", "value"), sources, strict=True):
            if source is None:
                return f"only one of key and value is expanded; the {name} is not"
            if isinstance(source, str):
                return f"the {name}'s heads are expanded {source}"
        return None

    def apply(self, graph: ir.Graph, node: ir.Node) -> None:
        """Let the node read what was expanded."""
        for index in (KEY, VALUE):
            source = _unexpanded(operand(node, index))
            assert isinstance(source, ir.Value)
            node.replace_input_with(index, source)


def _unexpanded(value: ir.Value | None) -> ir.Value | str | None:
    """Return the value before its expansion, None if there is none, or in which other way it is expanded."""
    flat = producer(value, "Reshape")
    wide = producer(flat.inputs[0], "Expand", "Tile") if flat is not None else None
    new_axis = producer(wide.inputs[0], "Unsqueeze") if wide is not None else None
    if new_axis is None:
        return None
    axes = integers(new_axis.inputs[1])
    return new_axis.inputs[0] if axes in _BEHIND_HEADS else f"along new axes {axes}, not behind the heads"
