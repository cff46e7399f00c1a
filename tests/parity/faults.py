"""Faults put into an engine folder: function bodies and graph of model.onnx changed, the manifest made to fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import FunctionProto, NodeProto, helper, numpy_helper

from innerq_export.engine.files import entries_of
from innerq_export.engine.folder import read_manifest, write_manifest
from innerq_export.engine.manifest import Manifest

INT8, FLOAT16, BFLOAT16 = 3, 10, 16
Spoil = Callable[[onnx.ModelProto, Manifest], None]


def spoiled(engine: Path, folder: Path, spoil: Spoil) -> Path:
    """Return a copy of the engine whose model.onnx `spoil` has changed and whose manifest agrees with it."""
    shutil.copytree(engine, folder)
    manifest = read_manifest(folder)
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    spoil(model, manifest)
    onnx.save(model, folder / "model.onnx")
    write_manifest(folder, manifest.replace(files=entries_of(folder), ready=False))
    return folder


def code_one_step_off(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAppend: the key code of token 5, channel 9 of every block is one more."""
    body = _function(model, "InnerQAppend")
    cast = next(node for node in body.node if node.op_type == "Cast" and _attribute(node, "to") == INT8)
    delta = np.zeros((1, 1, 1, 32, manifest.model.head_dim // 32, 32), np.float32)
    delta[..., 5, 0, 9] = 1
    _before(body, cast, 0, "Add", delta)


def scales_swapped(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAppend: the value scales of channels 3 and 4 change places."""
    body = _function(model, "InnerQAppend")
    order = np.arange(manifest.model.head_dim)
    order[[3, 4]] = order[[4, 3]]
    _before(body, _written_to(body, "past_value_scales"), 2, "Gather", order, axis=3)


def block_misplaced(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAppend: block j is written to place j + 1."""
    body = _function(model, "InnerQAppend")
    sizes = {node.output[0] for node in body.node if node.op_type == "Shape" and node.input[0] == "past_key_codes"}
    place = next(node for node in body.node if node.op_type == "Mod" and node.input[1] in sizes)
    _before(body, place, 0, "Add", np.array(1))


def block_unseen(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAttention: one block fewer is taken to be held, so the newest is not seen."""
    body = _function(model, "InnerQAttention")
    counts = {node.output[0]: node.input[1] for node in body.node if node.op_type == "Div"}
    times = next(node for node in body.node if node.op_type == "Mul" and counts.get(node.input[0]) == node.input[1])
    _before(body, times, 0, "Sub", np.array(1))


def heads_mixed(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAttention: query heads use the KV heads in reverse order."""
    body = _function(model, "InnerQAttention")
    cast = next(node for node in body.node if node.op_type == "Cast" and node.input[0] == "query")
    _before(body, cast, 0, "Gather", np.arange(manifest.model.heads)[::-1], axis=1)


def lambda_forgotten(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAttention: the query is not multiplied by lambda for the blocks."""
    body = _function(model, "InnerQAttention")
    cast = next(node for node in body.node if node.op_type == "Cast" and node.input[0] == "present_key_norm")
    _before(body, cast, 0, "Pow", np.array(0.0, np.float16))


def slot_off_by_one(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAppend: every token stands one window slot too far."""
    body = _function(model, "InnerQAppend")
    made = next(node for node in body.node if node.output[0] == body.output[0])
    _before(body, made, 0, "Gather", np.roll(np.arange(manifest.cache.window_tokens), 1), axis=2)


def flushed_too_early(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Both ops: a block is due, and read as one, 32 tokens before its time."""
    for name in ("InnerQAppend", "InnerQAttention"):
        body = _function(model, name)
        constants = {node.output[0]: _attribute(node, "value") for node in body.node if node.op_type == "Constant"}
        numbers = {key: numpy_helper.to_array(value).tolist() for key, value in constants.items() if value is not None}
        kept = manifest.cache.sink + manifest.cache.recent
        counting = [node for node in body.node if node.op_type == "Sub" and numbers.get(node.input[1]) == kept]
        assert counting
        for node in counting:
            _before(body, node, 0, "Add", np.array(32))


def in_bf16(model: onnx.ModelProto, manifest: Manifest) -> None:
    """InnerQAttention: query, keys and values are rounded to bf16 on the way in."""
    body = _function(model, "InnerQAttention")
    for name in ("query", "key", "value", "present_window"):
        for node in body.node:
            node.input[:] = [f"{name}_coarse" if known == name else known for known in node.input]
        for source, target, element in ((f"{name}_bf16", f"{name}_coarse", FLOAT16), (name, f"{name}_bf16", BFLOAT16)):
            body.node.insert(0, helper.make_node("Cast", [source], [target], to=element))


def positions_late(model: onnx.ModelProto, manifest: Manifest) -> None:
    """The graph: positions count from 1; scores stay as they are, since RoPE is relative, but the keys do not."""
    reader = next(node for node in model.graph.node if node.op_type == "Unsqueeze" and node.input[0] == "position_ids")
    _before(model.graph, reader, 0, "Add", np.array(1))


def keys_for_values(model: onnx.ModelProto, manifest: Manifest) -> None:
    """The graph: the ops of the last layer get the keys for values too."""
    for node in model.graph.node:
        if f"present_window_{manifest.model.layers - 1}" in [*node.input, *node.output]:
            first = list(node.input).index("past_length") - 2
            node.input[first + 1] = node.input[first]


def logits_of_the_wrong_token(model: onnx.ModelProto, manifest: Manifest) -> None:
    """The graph: logits come from the token before the last one, where a call has more than one."""
    keep = next(node for node in reversed(model.graph.node) if node.op_type == "GatherND")
    _before(model.graph, keep, 1, "Sub", np.array(1))
    _before(model.graph, keep, 1, "Max", np.array(0))


def head_of_the_model(model: onnx.ModelProto, manifest: Manifest) -> None:
    """The graph: the states before the last product are a tenth too large in every other channel."""
    product = next(node for node in reversed(model.graph.node) if node.op_type in ("MatMul", "Gemm"))
    _before(model.graph, product, 0, "Mul", np.resize([1.1, 1.0], _width(model, product)).astype(np.float16))


def only_in_layer(layer: int, spoil: Spoil) -> Spoil:
    """Return the fault in a copy of the function bodies that this layer alone calls (an overload)."""

    def spoil_one(model: onnx.ModelProto, manifest: Manifest) -> None:
        sound = [FunctionProto.FromString(function.SerializeToString()) for function in model.functions]
        spoil(model, manifest)
        for function in model.functions:
            function.overload = "spoiled"
        model.functions.extend(sound)
        for node in model.graph.node:
            if node.domain == "innerq" and f"present_window_{layer}" in [*node.input, *node.output]:
                node.overload = "spoiled"

    return spoil_one


@dataclass(frozen=True)
class Fault:
    """A fault by its name in docs/parity.md, the rung that must catch it, the layer and the thing it must name."""

    name: str
    spoil: Spoil
    rung: str
    layer: int | None
    what: str


FAULTS = (
    Fault("one code one step off", code_one_step_off, "cache", 0, "key_codes"),
    Fault("two scales swapped", scales_swapped, "cache", 0, "value_scales"),
    Fault("a block written one place too far", block_misplaced, "cache", 0, "key_codes"),
    Fault("the newest block not seen", block_unseen, "attention", 0, "attention"),
    Fault("query heads on the wrong KV heads", heads_mixed, "attention", 0, "attention"),
    Fault("lambda not applied to the query", lambda_forgotten, "attention", 0, "attention"),
    Fault("window slot off by one", slot_off_by_one, "cache", 0, "window"),
    Fault("a block flushed too early", flushed_too_early, "cache", 0, "key"),
    Fault("bf16 for fp16", in_bf16, "attention", 0, "attention"),
    Fault("positions counted from 1", positions_late, "keys and values", 0, "keys"),
    Fault("keys in the place of values in one layer", keys_for_values, "keys and values", 1, "values"),
    Fault("logits of the token before the last", logits_of_the_wrong_token, "logits", None, "logits"),
)
IN_THE_LAST_LAYER = tuple(
    Fault(f"{fault.name}, in layer 1 only", only_in_layer(1, fault.spoil), fault.rung, 1, fault.what)
    for fault in FAULTS
    if fault.rung in ("cache", "attention")
)


def _width(model: onnx.ModelProto, product: NodeProto) -> int:
    """Return the inner size of a product with a weight."""
    makers = {node.output[0]: node for node in model.graph.node}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    name = product.input[1]
    turned = name in makers and makers[name].op_type == "Transpose"
    dims = weights[makers[name].input[0] if turned else name].dims
    return dims[-1] if turned else dims[0]


def _function(model: onnx.ModelProto, name: str) -> FunctionProto:
    return next(function for function in model.functions if function.name == name)


def _attribute(node: NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), None)


def _written_to(body: FunctionProto, past: str) -> NodeProto:
    """Return the Where that chooses between new and old blocks of a cache tensor."""
    scatter = next(node for node in body.node if node.op_type == "ScatterND" and node.input[0] == past)
    return next(node for node in body.node if node.output[0] == scatter.input[2])


def _before(graph: Any, node: NodeProto, place: int, op: str, constant: np.ndarray, **attributes: Any) -> None:
    """Let input `place` of `node` pass through `op` with this constant first."""
    at = next(index for index, known in enumerate(graph.node) if known is node or known == node)
    name = f"fault_{op}_{at}"
    value = helper.make_node("Constant", [], [f"{name}_constant"], value=numpy_helper.from_array(constant))
    changed = helper.make_node(op, [node.input[place], value.output[0]], [name], **attributes)
    graph.node[at].input[place] = name
    graph.node.insert(at, changed)
    graph.node.insert(at, value)
