"""The order in which attention is brought into normal form."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from innerq_export.rewrite.normal.decomposed import DecomposedAttention
from innerq_export.rewrite.normal.flat import FlatAttention
from innerq_export.rewrite.normal.past import OwnPast
from innerq_export.rewrite.normal.shared_heads import SharedHeads
from innerq_export.rewrite.report import Refusal
from innerq_export.rewrite.sizes import fold_fixed_sizes


def normalise(model: ir.Model) -> tuple[dict[str, int], list[Refusal]]:
    """Bring every attention of `model` into one form, in place; return counts and refusals by rule.

    Afterwards: standard Attention over [B, H, S, D], key/value heads not repeated, no past, wherever a rule held.
    """
    rules = (DecomposedAttention(), FlatAttention(), SharedHeads(), OwnPast())
    if _shapes_are_missing(model):
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
    fold_fixed_sizes(model.graph)
    counts = {rule.name: rule.run(model) for rule in rules}
    return counts, [refusal for rule in rules for refusal in rule.refusals]


def _shapes_are_missing(model: ir.Model) -> bool:
    operands = [node for node in model.graph if node.op_type in ("Attention", "Softmax")]
    return any(value is not None and value.shape is None for node in operands for value in node.inputs[:3])
