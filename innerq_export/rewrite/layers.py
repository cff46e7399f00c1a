"""The rule at the heart of the rewrite, once per layer.

    Attention(Q, K, V)   ->   InnerQAttention(Q, K, V, lengths, present), present = InnerQAppend(K, V, lengths, past)

It holds where Attention is causal self-attention over [B, H, S, D] without a past of its own: token i of the call sees
tokens 0..i, which is what InnerQAttention computes when nothing is cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from innerq_export.artifacts import ModelShape
from innerq_export.errors import RewriteError
from innerq_export.rewrite.causal import geometry_of, refuse_features, refuse_shapes
from innerq_export.rewrite.geometry import Geometry
from innerq_export.rewrite.mask import refuse_mask
from innerq_export.rewrite.report import Refusal
from innerq_export.rewrite.rule import CountedRule
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, DOMAIN, OP_VERSION, Op, Port, attributes_of

_NEW_TOKEN_PORTS = 4
_SHOWN = 3
_PLUGIN = {"plugin_namespace": DOMAIN, "plugin_version": str(OP_VERSION)}
"""TensorRT's parser looks a creator up by these, not by the node's domain (onnx-tensorrt, FallbackPluginImporter)."""


class InnerQLayers(CountedRule):
    """Rewrites every layer in the order of the graph; `past`, `present` and `geometry` are what it leaves behind.

    A node that a rule refused before (`refused_before`, by node name) is not in the form that this rule relies on.
    """

    def __init__(
        self,
        model: ir.Model,
        shape: ModelShape,
        config: CacheConfig,
        layout: str,
        lengths: tuple[ir.Value, ir.Value],
        refused_before: Sequence[Refusal] = (),
    ) -> None:
        super().__init__()
        self._refused_before = {refusal.node: refusal.reason for refusal in refused_before}
        self.model, self.shape, self.config, self.layout, self.lengths = model, shape, config, layout, lengths
        self._masks: dict[tuple[ir.Value, bool], str | None] = {}
        self.past: list[ir.Value] = []
        self.present: list[ir.Value] = []
        self.geometry: Geometry | None = None
        self.layers = 0

    def pattern(self, op: Any, query: Any, key: Any, value: Any) -> Any:
        """Match any standard Attention: what it must be is for the check to say."""
        return op.Attention(
            query, key, value, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["output"]
        )

    def refuse(self, *args: Any, **bindings: Any) -> str | None:
        """Return the first thing in which the node is not causal self-attention that the ops can do, or None."""
        node = bindings["output"].producer()
        if node.name in self._refused_before:
            return self._refused_before[node.name]
        reason = refuse_shapes(node, self.shape) or refuse_features(node) or self._refuse_mask(node)
        if reason is None and self.geometry not in (None, geometry_of(node, self.shape)):
            return f"scale or type differ from the layers before: {geometry_of(node, self.shape)}, not {self.geometry}"
        return reason

    def _refuse_mask(self, node: ir.Node) -> str | None:
        """Return what a mask does beyond causality; layers share masks, so each is computed once."""
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is None:
            return None
        causal = bool(node.attributes.get_int("is_causal", 0))
        if (mask, causal) not in self._masks:
            self._masks[mask, causal] = refuse_mask(self.model, mask, causal, self.shape.max_positions)
        return self._masks[mask, causal]

    def rewrite(self, op: Any, output: ir.Value, **bindings: ir.Value) -> ir.Value:
        """Put the two ops in the place of Attention."""
        node = output.producer()
        assert node is not None
        geometry = self.geometry = geometry_of(node, self.shape)
        past = self._cache(APPEND.inputs_for(self.config, self.layout)[_NEW_TOKEN_PORTS:], geometry)
        present = self._cache(APPEND.outputs_for(self.config, self.layout), geometry)
        self.past += past
        self.present += present
        self.layers += 1
        query, key, value = node.inputs[:3]
        self._node(op, APPEND, [key, value, *self.lengths, *past], present, node, geometry)
        attended = geometry.value(ATTENTION.outputs[0], self.config, f"{output.name}_innerq")
        self._node(op, ATTENTION, [query, key, value, *self.lengths, *present], [attended], node, geometry)
        return attended

    def _cache(self, ports: tuple[Port, ...], geometry: Geometry) -> list[ir.Value]:
        return [geometry.value(port, self.config, f"{port.name}_{self.layers}") for port in ports]

    def _node(
        self, op: Any, op_type: Op, inputs: list, outputs: list[ir.Value], replaced: ir.Node, geometry: Geometry
    ) -> None:
        stem = str(replaced.name).removesuffix("Attention").removesuffix("/")
        op.op(
            op_type.name,
            *inputs,
            _domain=DOMAIN,
            _version=OP_VERSION,
            _outputs=outputs,
            _name=f"{stem}/{op_type.name}",
            **attributes_of(op_type, self.config, geometry.scale),
            **(_PLUGIN if self.layout == "packed" else {}),
        )


def require_all_layers(expected: int, layers: InnerQLayers, refusals: Sequence[Refusal], model: ir.Model) -> Geometry:
    """Return the layers' geometry; RewriteError, with the closest partial matches, unless all were rewritten."""
    if layers.layers == expected and layers.geometry is not None:
        return layers.geometry
    reasons = [f"{refusal.node}: {refusal.reason}" for refusal in (*layers.refusals, *refusals)]
    if not reasons:
        known = sorted({node.op_type for node in model.graph if "Attention" in node.op_type or node.domain})
        reasons = [f"no Attention and no MatMul - Softmax - MatMul; other operators: {', '.join(known) or 'none'}"]
    raise RewriteError(
        f"{layers.layers} of {expected} attention layers could be rewritten",
        expected=f"{expected} causal self-attentions over [B, H, S, D]",
        got="\n            ".join(reasons[:_SHOWN]),
        fix="export the decoder with torch.onnx.export(..., dynamo=True, opset_version=23)",
    )
