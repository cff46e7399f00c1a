"""Two models of one checkpoint in one folder, or beside it: what the first wrote is not written again."""

from __future__ import annotations

import onnx_ir as ir

from innerq_export.artifacts import OnnxModel


def share_weights(model: ir.Model, first: ir.Model, saved: OnnxModel) -> int:
    """Point weights of `model` at the bytes that `saved`, which was saved from `first`, has of them; return how many.

    A weight is shared when both models hold the very same tensor object under its name, as rewrites of one graph do;
    what either of them changed stays its own.
    """
    known = _initializers(first)
    written = _initializers(ir.load(saved.path))
    shared = 0
    for name, value in _initializers(model).items():
        same = name in known and value.const_value is known[name].const_value
        place = written[name].const_value if same and name in written else None
        if isinstance(place, ir.ExternalTensor):
            value.const_value = place
            shared += 1
    return shared


def _initializers(model: ir.Model) -> dict[str, ir.Value]:
    return {str(value.name): value for graph in model.graphs() for value in graph.initializers.values()}
