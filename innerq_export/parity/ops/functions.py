"""The ops as the engine has them: the very function bodies of its model.onnx, each alone in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import ACTIVATION, ATTENTION, DOMAIN, OPS, Op, Port

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_ELEMENT = {"float16": 10, "float32": 1, "int32": 6, "int8": 3}


class FunctionOps:
    """The functions that the nodes of `layer` call. Layers that call the same bodies need only one FunctionOps."""

    name = "ONNX Runtime"
    layout = "logical"

    def __init__(self, path: Path, layer: int = 0):
        import onnx

        self._model = onnx.load(path, load_external_data=False)
        self.layer = layer
        self._sessions: dict[tuple[str, str], onnxruntime.InferenceSession] = {}

    def lacks(self, config: CacheConfig, dtype: str) -> str:
        """Nothing but a body: nodes of the plugin lowering have none."""
        return "" if self._model.functions else "model.onnx holds no function bodies"

    def run(self, op: Op, config: CacheConfig, inputs: Mapping[str, Tensor], scale: float = 0.0) -> dict[str, Tensor]:
        """Run one function; its scale is built in, `scale` unused. Padding is made finite, as it is in an engine."""
        dtype = str(inputs["key"].dtype).removeprefix("torch.")
        known = (op.name, dtype)
        if known not in self._sessions:
            self._sessions[known] = _session(self.piece(op, config, dtype))
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        feeds |= {name: np.nan_to_num(feeds[name]) for name in ("key", "value")}
        names = [port.name for port in op.outputs_for(config, self.layout)]
        arrays: list[np.ndarray] = self._sessions[known].run(names, feeds)
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    def piece(self, op: Op, config: CacheConfig, dtype: str) -> onnx.ModelProto:
        """Return the op of this layer as an ONNX model of one node, its inputs and outputs named as in the op table."""
        from onnx import helper

        node = node_of(self._model, op.name, self.layer)
        inputs, outputs = op.inputs_for(config, self.layout), op.outputs_for(config, self.layout)
        alone = helper.make_node(op.name, [p.name for p in inputs], [p.name for p in outputs], domain=DOMAIN)
        alone.attribute.extend(node.attribute)
        alone.overload = node.overload
        graph = helper.make_graph([alone], op.name, _values(inputs, dtype), _values(outputs, dtype))
        functions = [body for body in self._model.functions if (body.name, body.overload) == (op.name, node.overload)]
        return helper.make_model(
            graph,
            functions=functions,
            opset_imports=list(self._model.opset_import),
            ir_version=self._model.ir_version,
        )

    @property
    def scale(self) -> float:
        """The softmax scale of the layer; 0 for 1 / sqrt(D)."""
        node = node_of(self._model, ATTENTION.name, self.layer)
        return next((item.f for item in node.attribute if item.name == "scale"), 0.0)


def distinct_functions(path: Path, layers: int) -> tuple[FunctionOps, ...]:
    """Return one FunctionOps for each pair of bodies that some layer of model.onnx calls, by its first layer."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    first: dict[tuple[str, ...], int] = {}
    for layer in range(layers):
        first.setdefault(tuple(node_of(model, name, layer).overload for name in OPS), layer)
    return tuple(FunctionOps(path, layer) for layer in first.values())


def node_of(model: onnx.ModelProto, op: str, layer: int) -> onnx.NodeProto:
    """Return the node of a layer; layers are told apart by their windows."""
    window = f"present_window_{layer}"
    return next(node for node in model.graph.node if node.op_type == op and window in (*node.input, *node.output))


def _values(ports: tuple[Port, ...], dtype: str) -> list[onnx.ValueInfoProto]:
    from onnx import helper

    element = {port.name: _ELEMENT[dtype if port.dtype == ACTIVATION else port.dtype] for port in ports}
    return [helper.make_tensor_value_info(port.name, element[port.name], port.shape) for port in ports]


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
