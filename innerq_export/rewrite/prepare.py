"""A rewritten model in the form that TensorRT-RTX builds fastest: functions inlined, what layers share computed once.

Its builder's time grows with nodes. The ops' bodies compute positions and masks from lengths and sizes alone, which are
the same in every layer, but each body reads the sizes from its own tensors. Dimensions of one name have one size, so
all sizes are read from the first network input that has them; then common subexpressions fall together.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, InlinePass, RemoveUnusedNodesPass

from innerq_export.rewrite.sizes import share_sizes

_LARGEST_SHARED_CONSTANT = 4096


def prepare_for_rtx(model: ir.Model) -> ir.Model:
    """Inline all functions of `model` and compute shared terms once, in place; the network computes the same."""
    InlinePass()(model)
    share_sizes(model.graph, model.graph.inputs)
    CommonSubexpressionEliminationPass(size_limit=_LARGEST_SHARED_CONSTANT)(model)
    RemoveUnusedNodesPass()(model)
    return model
