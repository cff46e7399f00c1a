"""MatMul - Softmax - MatMul becomes one standard Attention.

    softmax(f Q K^T + M) V   ->   Attention(Q, K, V, M, scale=f)

The factor may stand on Q, on K^T or on the product; the mask may be added, or chosen by Where against a large negative
number; casts, and a Where that replaces NaN, may stand between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from innerq_export.rewrite.normal.walk import permutation, producer, scalar, without, without_factor
from innerq_export.rewrite.rule import NOT_A_CANDIDATE, CountedRule

_HIDDEN = -1.0e4
_LAST_AXES = (-1, 3)


class DecomposedAttention(CountedRule):
    """Matches every product of two computed values; the check follows the first back to a softmax of a product."""

    def pattern(self, op: Any, weights: Any, value: Any) -> Any:
        """Match the product with V."""
        return op.MatMul(weights, value, _outputs=["output"])

    def refuse(self, *args: Any, **bindings: Any) -> str | None:
        """Return where the way back to Q K^T ends otherwise."""
        softmax = _softmax(bindings["weights"])
        if softmax is None:
            return NOT_A_CANDIDATE
        if softmax.attributes.get_int("axis", -1) not in _LAST_AXES:
            return f"its softmax runs over axis {softmax.attributes.get_int('axis')}, not the last"
        found = _scores(softmax)
        return found if isinstance(found, str) else None

    def rewrite(self, op: Any, output: ir.Value, weights: ir.Value, value: ir.Value) -> ir.Value:
        """Put Attention in the place of the product with V."""
        softmax, node = _softmax(weights), output.producer()
        assert softmax is not None and node is not None
        found = _scores(softmax)
        assert isinstance(found, _Scores)
        operands = [found.query, found.key, value, *([found.mask] if found.mask is not None else [])]
        attended = op.op("Attention", *operands, scale=found.scale, _name=f"{node.name}/Attention")
        attended.type, attended.shape = output.type, output.shape
        return attended


@dataclass(frozen=True)
class _Scores:
    query: ir.Value
    key: ir.Value
    scale: float
    mask: ir.Value | None


def _softmax(weights: ir.Value) -> ir.Node | None:
    """Return the Softmax behind casts and the Where that replaces NaN, if there is one."""
    value = without(weights, ("Cast", "Identity", "Dropout"))
    chosen = producer(value, "Where")
    if chosen is not None and producer(chosen.inputs[0], "IsNaN") is not None and chosen.inputs[2] is not None:
        value = without(chosen.inputs[2], ("Cast", "Identity"))
    return producer(value, "Softmax")


def _scores(softmax: ir.Node) -> _Scores | str:
    """Return the parts of f Q K^T + M, or why the input of the softmax is not of that form."""
    value, mask = _without_mask(softmax.inputs[0])
    if mask is None:
        value, factor = without_factor(value)
        value, mask = _without_mask(value)
    else:
        factor = 1.0
    product, inner = without_factor(value)
    node = producer(product, "MatMul")
    if node is None:
        made_by = product.producer()
        return f"its scores are made by {made_by.op_type if made_by else 'an input'}, not by a product Q K^T"
    left, right = node.inputs
    assert left is not None and right is not None
    (query, query_factor), (turned, key_factor) = without_factor(left), without_factor(right)
    key = _turned_back(turned)
    if key is None:
        made_by = turned.producer()
        return f"the second operand of Q K^T is {made_by.op_type if made_by else 'an input'}, not a transposed key"
    return _Scores(query, key, factor * inner * query_factor * key_factor, mask)


def _without_mask(value: ir.Value | None) -> tuple[ir.Value, ir.Value | None]:
    """Return (scores, mask) of scores + mask or Where(mask, scores, hidden); (value, None) otherwise."""
    assert value is not None
    value = without(value, ("Cast", "Identity"))
    node = producer(value, "Add", "Where")
    if node is None:
        return value, None
    if node.op_type == "Where":
        chosen, number = node.inputs[1], scalar(node.inputs[2])
        hides = number is not None and number <= _HIDDEN and chosen is not None
        return (chosen, node.inputs[0]) if hides and chosen is not None else (value, None)
    for scores, mask in (node.inputs, node.inputs[::-1]):
        if scores is not None and producer(without_factor(scores)[0], "MatMul") is not None:
            return scores, mask
    return value, None


def _turned_back(turned: ir.Value) -> ir.Value | None:
    """Return K [B, H, T, D] of K^T [B, H, D, T], or None."""
    found = permutation(turned)
    if found is not None:
        return found[0] if found[1] == [0, 1, 3, 2] else None
    flat = producer(turned, "Reshape")
    found = permutation(flat.inputs[0]) if flat is not None else None
    inner = producer(found[0], "Reshape") if found is not None and found[1] == [0, 2, 1] else None
    return without_factor(inner.inputs[0])[0] if inner is not None and inner.inputs[0] is not None else None
