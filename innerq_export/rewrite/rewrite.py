"""The rewrite: a decoder with standard `Attention` becomes a decoder with an InnerQ cache (ARCHITECTURE, The rewrite).

    Attention(Q, K, V)   becomes   present = InnerQAppend(K, V, lengths, past)
                                   InnerQAttention(Q, K, V, lengths, present)

and around it: inputs past_length, new_length and past_*_i, outputs present_*_i, logits of the last token of each row.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from innerq_export.artifacts import LOWERINGS, Graph
from innerq_export.errors import ConfigError, RewriteError, nearest
from innerq_export.rewrite.functions import FLAVOURS, append_function, attention_function
from innerq_export.rewrite.geometry import Geometry
from innerq_export.rewrite.layers import InnerQLayers
from innerq_export.rewrite.logits import keep_last_logits
from innerq_export.rewrite.network import add_cache, add_lengths, drop_unread_inputs
from innerq_export.rewrite.report import RewriteReport
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import DOMAIN, OP_VERSION

LOGITS = ("last", "all")
_IR_VERSION = 10


def rewrite(
    graph: Graph,
    cache: CacheConfig,
    lowering: str = "native",
    logits: str = "last",
    attention_flavour: str = "matmul",
) -> tuple[ir.Model, RewriteReport]:
    """Return the rewritten model and what was done; `graph` stays as it is, weights are shared, none is read.

    `lowering`: 'native' (function bodies, logical layout) or 'plugin' (bare nodes, packed layout). `logits`: 'last'
    ([B, 1, V], of token new_length - 1) or 'all'. `attention_flavour` (native): 'matmul' or 'attention'.
    Raises ConfigError for an unknown option, RewriteError when not every layer could be rewritten.
    """
    for name, value, known in (
        ("lowering", lowering, LOWERINGS),
        ("logits", logits, LOGITS),
        ("attention flavour", attention_flavour, FLAVOURS),
    ):
        if value not in known:
            raise ConfigError(f"unknown {name} '{value}'", got=value, fix=nearest(value, known))
    model = graph.model.clone()
    lengths = add_lengths(model)
    layers = InnerQLayers(cache, "logical" if lowering == "native" else "packed", lengths)
    layers.run(model)
    geometry = _require_all(graph.shape.layers, layers)
    add_cache(model, layers.past, layers.present)
    if logits == "last":
        keep_last_logits(model, lengths[1])
    RemoveUnusedNodesPass()(model)
    dropped = drop_unread_inputs(model)
    if lowering == "native":
        for function in (append_function(cache, geometry), attention_function(cache, geometry, attention_flavour)):
            model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = OP_VERSION
    model.ir_version = max(model.ir_version or 0, _IR_VERSION)
    return model, RewriteReport(
        graph.shape.layers, lowering, {layers.name: layers.layers}, tuple(layers.refusals), dropped
    )


def _require_all(expected: int, layers: InnerQLayers) -> Geometry:
    """Return the layers' geometry; RewriteError, with the reasons of the layers left out, unless all were rewritten."""
    if layers.layers == expected and layers.geometry is not None:
        return layers.geometry
    closest = "; ".join(f"{refusal.node}: {refusal.reason}" for refusal in layers.refusals[:3])
    raise RewriteError(
        f"{layers.layers} of {expected} attention layers could be rewritten",
        expected=f"{expected} causal self-attentions [B, H, S, D] as standard Attention",
        got=closest or "no Attention node at all",
        fix="export the decoder at opset 23 or later without past inputs",
    )
