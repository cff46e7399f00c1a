"""Base of the rules that change the operands of a standard Attention in place."""

from __future__ import annotations

import onnx_ir as ir

from innerq_export.rewrite.report import Refusal
from innerq_export.rewrite.rule import NOT_A_CANDIDATE

QUERY, KEY, VALUE, MASK, PAST_KEY, PAST_VALUE = range(6)


class OperandRule:
    """Derived rules give `refuse` (a reason, NOT_A_CANDIDATE or None) and `apply`."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []

    @property
    def name(self) -> str:
        """The name that reports use."""
        return type(self).__name__

    def refuse(self, node: ir.Node) -> str | None:
        """Return why the node must stay as it is, or None where it may be changed."""
        raise NotImplementedError

    def apply(self, graph: ir.Graph, node: ir.Node) -> None:
        """Change a node that was not refused."""
        raise NotImplementedError

    def run(self, model: ir.Model) -> int:
        """Apply the rule to every Attention where it holds; return the number of applications."""
        count = 0
        for node in attentions(model):
            reason = self.refuse(node)
            if reason is None:
                self.apply(model.graph, node)
                count += 1
            elif reason != NOT_A_CANDIDATE:
                self.refusals.append(Refusal(self.name, str(node.name), reason))
        return count


def attentions(model: ir.Model) -> list[ir.Node]:
    """Return the standard Attention nodes of the graph, in its order."""
    return [node for node in model.graph if node.op_type == "Attention" and node.domain in ("", "ai.onnx")]


def attention_output_only(node: ir.Node) -> bool:
    """Whether nobody reads anything but the first output of the node."""
    return not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node, None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None
