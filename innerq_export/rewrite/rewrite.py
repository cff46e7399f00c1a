"""The rewrite: a decoder with its own attention becomes a decoder with an InnerQ cache (ARCHITECTURE, The rewrite).

    Attention(Q, K, V)   becomes   present = InnerQAppend(K, V, lengths, past)
                                   InnerQAttention(Q, K, V, lengths, present)

and around it: inputs past_length, new_length and past_*_i, outputs present_*_i, logits of the last token of each row.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from innerq_export.artifacts import LOWERINGS, Graph
from innerq_export.errors import ConfigError, nearest
from innerq_export.rewrite.functions import FLAVOURS, append_function, attention_function
from innerq_export.rewrite.geometry import Geometry
from innerq_export.rewrite.layers import InnerQLayers, require_all_layers
from innerq_export.rewrite.logits import keep_last_logits
from innerq_export.rewrite.network import Network
from innerq_export.rewrite.normal import normalise
from innerq_export.rewrite.positions import read_positions_from_input
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
    Raises ConfigError for an unknown option, RewriteError when the network is not a causal decoder in every layer.
    """
    _require_known("lowering", lowering, LOWERINGS)
    _require_known("logits", logits, LOGITS)
    _require_known("attention flavour", attention_flavour, FLAVOURS)
    model = graph.model.clone()
    network = Network(model)
    counts, refusals = normalise(model)
    layout = "logical" if lowering == "native" else "packed"
    layers = InnerQLayers(model, graph.shape, cache, layout, network.add_lengths(), refusals)
    counts[layers.name] = layers.run(model)
    geometry = require_all_layers(graph.shape.layers, layers, refusals, model)
    network.add_cache(layers.past, layers.present)
    RemoveUnusedNodesPass()(model)
    counts["read_positions_from_input"] = read_positions_from_input(model)
    if logits == "last":
        keep_last_logits(model, network.new_length_B)
    RemoveUnusedNodesPass()(model)
    network.close()
    if lowering == "native":
        _add_functions(model, cache, geometry, attention_flavour)
    model.opset_imports[DOMAIN] = OP_VERSION
    model.ir_version = max(model.ir_version or 0, _IR_VERSION)
    refused = (*refusals, *layers.refusals)
    return model, RewriteReport(layers.layers, lowering, counts, refused, network.dropped)


def _add_functions(model: ir.Model, cache: CacheConfig, geometry: Geometry, flavour: str) -> None:
    for function in (append_function(cache, geometry), attention_function(cache, geometry, flavour)):
        model.functions[function.identifier()] = function


def _require_known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} '{value}'", got=value, fix=nearest(value, known))
