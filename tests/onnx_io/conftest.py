"""A small model with weights in a file, as the rewrite hands it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from innerq_export.artifacts import Graph, ModelShape

SHAPE = ModelShape(1, 1, 1, 32, 8, 64)


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """A file of 6 odd bytes and then a 16 x 64 fp16 weight, as in a safetensors file."""
    file = tmp_path / "checkpoint" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"header" + np.arange(1024, dtype=np.float16).tobytes())
    return file


@pytest.fixture
def graph(weights_file: Path) -> Graph:
    """y = x W1 + W2 + b: W1 in the file, W2 made when it is asked for, b small and in memory."""
    linked = ir.ExternalTensor(
        weights_file.name,
        6,
        2048,
        ir.DataType.FLOAT16,
        shape=ir.Shape([16, 64]),
        name="W1",
        base_dir=weights_file.parent,
    )
    made = ir.LazyTensor(
        lambda: ir.Tensor(np.full((16, 64), 2, np.float16)),
        dtype=ir.DataType.FLOAT16,
        shape=ir.Shape([16, 64]),
        name="W2",
    )
    bias = ir.tensor(np.ones(64, np.float16), name="b")
    weights = [
        ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), const_value=tensor)
        for tensor in (linked, made, bias)
    ]
    for value in weights:
        assert value.const_value is not None
        value.shape = ir.Shape(list(value.const_value.shape.numpy()))
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape([16, 64]))
    nodes = [ir.node("Mul", [x, weights[0]])]
    nodes.append(ir.node("Add", [nodes[0].outputs[0], weights[1]]))
    nodes.append(ir.node("Add", [nodes[1].outputs[0], weights[2]]))
    y = nodes[-1].outputs[0]
    y.name, y.type, y.shape = "y", x.type, ir.Shape([16, 64])
    body = ir.Graph([x], [y], nodes=nodes, initializers=weights, opset_imports={"": 23}, name="small")
    return Graph(ir.Model(body, ir_version=10), SHAPE, "float16", "digest")
