"""One-layer decoders written by hand, in the ways in which exporters write attention, masks, pasts and positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript._internal.builder import GraphBuilder

from innerq_export.artifacts import Graph, ModelShape

HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCAB, PLACES = 4, 2, 32, 24, 50, 4200
SHAPE = ModelShape(1, HEADS, KV_HEADS, HEAD_DIM, VOCAB, PLACES)
HIDDEN = -3.0e38


@dataclass(frozen=True)
class Form:
    """How the decoder is written.

    `attention`: four (standard), flat (rank 3), product (MatMul - Softmax - MatMul), chosen (the same, mask by Where);
    `mask`: attribute, boolean, added, none, window, future, bias, weights; `positions`: input, counted, table, none;
    `past`: none, joined, given; `expand`: the axis behind which KV heads are repeated, 0 for not.
    """

    attention: str = "four"
    mask: str = "boolean"
    positions: str = "input"
    past: str = "none"
    expand: int = 0


def tiny_decoder(form: Form, seed: int = 0) -> Graph:
    """Return the decoder in fp32 with random weights; same seed, same function, whatever the form."""
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 23}, name="tiny")
    decoder = _Decoder(GraphBuilder(graph), form, np.random.default_rng(seed))
    logits = decoder.trace()
    logits.name, logits.type, logits.shape = "logits", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["B", "S", VOCAB])
    graph.outputs.insert(0, logits)
    return Graph(ir.Model(graph, ir_version=10), SHAPE, "float32", f"{form} {seed}")


class _Decoder:
    def __init__(self, builder: GraphBuilder, form: Form, rng: np.random.Generator) -> None:
        self.builder, self.op, self.form, self.rng = builder, builder.op, form, rng

    def trace(self) -> ir.Value:
        op = self.op
        self.ids = self.builder.input("input_ids", ir.DataType.INT64, ["batch", "sequence"])
        self.tokens_1 = op.Shape(self.ids, start=1, end=2)
        embedded = op.Gather(self.weight("embedding", VOCAB, WIDTH), self.ids)
        embedded = op.Add(embedded, self.placed())
        query, key, value = (
            self.split(op.MatMul(embedded, self.weight(name, WIDTH, heads * HEAD_DIM)), heads)
            for name, heads in (("query", HEADS), ("key", KV_HEADS), ("value", KV_HEADS))
        )
        attended = self.attend(query, key, value)
        hidden = op.MatMul(
            op.Reshape(attended, [0, 0, HEADS * HEAD_DIM]), self.weight("output", HEADS * HEAD_DIM, WIDTH)
        )
        return op.MatMul(op.Add(embedded, hidden), self.weight("head", WIDTH, VOCAB))

    def weight(self, name: str, *shape: int) -> ir.Value:
        values = (self.rng.standard_normal(shape) * 1.5 / shape[0] ** 0.5).astype(np.float32)
        return self.op.initializer(ir.tensor(values, name=f"{name}.weight"))

    def split(self, flat: ir.Value, heads: int) -> ir.Value:
        return self.op.Transpose(self.op.Reshape(flat, [0, 0, heads, HEAD_DIM]), perm=[0, 2, 1, 3])

    def count(self) -> ir.Value:
        return self.op.Range(0, self.op.Squeeze(self.tokens_1, [0]), 1)

    def placed(self) -> ir.Value:
        op, table = self.op, self.weight("places", PLACES, WIDTH)
        if self.form.positions == "input":
            return op.Gather(table, self.builder.input("position_ids", ir.DataType.INT64, ["batch", "sequence"]))
        if self.form.positions == "counted":
            return op.Gather(table, op.Unsqueeze(self.count(), [0]))
        return op.Mul(op.ReduceMean(table, [0], keepdims=0), 0.5)

    def attend(self, query: ir.Value, key: ir.Value, value: ir.Value) -> ir.Value:
        op, form = self.op, self.form
        past: list[ir.Value] = []
        if form.past != "none":
            shape = ["batch", KV_HEADS, "past", HEAD_DIM]
            past = [self.builder.input(f"past.{name}", ir.DataType.FLOAT, shape) for name in ("key", "value")]
        if form.past == "joined":
            key, value = (op.Concat(old, new, axis=-2) for old, new in zip(past, (key, value), strict=True))
            self.present(key, value)
        if form.expand:
            key, value = self.expanded(key), self.expanded(value)
        mask = self.mask(query, key)
        if form.attention in ("product", "chosen"):
            return op.Transpose(self.product(query, key, value, mask), perm=[0, 2, 1, 3])
        causal = {"is_causal": 1} if form.mask == "attribute" else {}
        if form.attention == "flat":
            flat = [op.Reshape(op.Transpose(part, perm=[0, 2, 1, 3]), [0, 0, -1]) for part in (query, key, value)]
            return op.Attention(*flat, mask, q_num_heads=HEADS, kv_num_heads=KV_HEADS, scale=0.2, **causal)
        if form.past == "given":
            output, *present = op.Attention(query, key, value, mask, *past, scale=0.2, _outputs=3)
            self.present(*present)
        else:
            output = op.Attention(query, key, value, mask, scale=0.2, **causal)
        return op.Transpose(output, perm=[0, 2, 1, 3])

    def present(self, *values: ir.Value) -> None:
        for name, value in zip(("key", "value"), values, strict=True):
            value.name, value.type = f"present.{name}", ir.TensorType(ir.DataType.FLOAT)
            value.shape = ir.Shape(["batch", KV_HEADS, "total", HEAD_DIM])
            self.builder.graph.outputs.append(value)

    def expanded(self, heads: ir.Value) -> ir.Value:
        op, axis = self.op, self.form.expand
        sizes = [1, 1, 1, 1, 1]
        sizes[axis] = HEADS // KV_HEADS
        wide = op.Expand(op.Unsqueeze(heads, [axis]), sizes)
        return op.Reshape(wide, op.Concat(op.Shape(heads, start=0, end=1), [HEADS, -1, HEAD_DIM], axis=0))

    def product(self, query: ir.Value, key: ir.Value, value: ir.Value, mask: Any) -> ir.Value:
        op = self.op
        scores = op.MatMul(op.Mul(query, 0.5), op.Transpose(key, perm=[0, 1, 3, 2]))
        scores = op.Div(scores, 2.5)
        if self.form.attention == "chosen":
            scores = op.Where(mask, scores, HIDDEN)
        elif mask is not None:
            scores = op.Add(scores, mask)
        return op.MatMul(op.Cast(op.Softmax(scores, axis=-1), to=1), value)

    def mask(self, query: ir.Value, key: ir.Value) -> Any:
        """Return what attention is given to hide: bool or additive fp32, [1, 1, S, T]."""
        op, kind = self.op, self.form.mask
        if kind in ("attribute", "none"):
            return None
        row = op.Unsqueeze(self.count(), [1])
        past = op.Sub(op.Shape(key, start=2, end=3), self.tokens_1)
        column = op.Sub(op.Range(0, op.Squeeze(op.Shape(key, start=2, end=3), [0]), 1), past)
        seen = op.LessOrEqual(column, op.Add(row, 1) if kind == "future" else row)
        if kind == "window":
            seen = op.And(seen, op.Greater(op.Add(column, 4096), row))
        seen = op.Unsqueeze(seen, [0, 1])
        if kind == "weights":
            return op.Add(
                op.Where(seen, 0.0, HIDDEN), op.ReduceMax(op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])))
            )
        if kind == "bias":
            return op.Where(seen, op.Mul(op.Cast(op.Sub(column, row), to=1), 0.1), HIDDEN)
        added = kind == "added" or self.form.attention == "product"
        return op.Where(seen, 0.0, HIDDEN) if added else seen
