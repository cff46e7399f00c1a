"""A decoder with its own key/value cache, as if its past were empty.

    Attention(Q, Concat(past_K, K), Concat(past_V, V), M)   ->   Attention(Q, K, V, M)
    Attention(Q, K, V, M, past_K, past_V)                   ->   Attention(Q, K, V, M)

past_K and past_V are inputs of the network; the InnerQ cache takes their place. Hugging Face's cache classes also join
with an empty constant: that join is nothing.
"""

from __future__ import annotations

import onnx_ir as ir

from innerq_export.rewrite.normal.operands import (
    KEY,
    PAST_KEY,
    PAST_VALUE,
    VALUE,
    OperandRule,
    attention_output_only,
    operand,
)
from innerq_export.rewrite.normal.walk import producer, without_empty
from innerq_export.rewrite.rule import NOT_A_CANDIDATE

_TOKEN_AXES = (2, -2)
_CHANNEL_AXES = (3, -1)


class OwnPast(OperandRule):
    """Takes the past off Attention, be it joined before the node or given to it."""

    def refuse(self, node: ir.Node) -> str | None:
        """Return why the past is not simply an input of the network."""
        given = [operand(node, index) for index in (PAST_KEY, PAST_VALUE)]
        joined = [_join(node, index) for index in (KEY, VALUE)]
        pasts = [value for value in given if value is not None]
        pasts += [past for join in joined if join and (past := without_empty(join.inputs[0])) is not None]
        if not pasts:
            return NOT_A_CANDIDATE
        if len(pasts) != 2:
            return "its past is not one key and one value"
        for past in pasts:
            if past is None or not past.is_graph_input():
                return f"its past {past and past.name} is not an input of the network"
        for join in joined:
            if join and (len(join.inputs) != 2 or join.attributes.get_int("axis", 0) not in _TOKEN_AXES):
                return f"{join.name} does not join a past and new tokens along axis 2"
        return None

    def apply(self, graph: ir.Graph, node: ir.Node) -> None:
        """Let the node read the new tokens alone."""
        for index in (KEY, VALUE):
            join = _join(node, index)
            if join is not None:
                node.replace_input_with(index, join.inputs[1])
        for index in (PAST_KEY, PAST_VALUE):
            if operand(node, index) is not None:
                node.replace_input_with(index, None)
        if attention_output_only(node):
            node.resize_outputs(1)


def _join(node: ir.Node, index: int) -> ir.Node | None:
    """Return the Concat of tokens before an operand; partial rotary embedding concatenates channels, which is none."""
    join = producer(without_empty(operand(node, index)), "Concat")
    return None if join is not None and join.attributes.get_int("axis", 0) in _CHANNEL_AXES else join
