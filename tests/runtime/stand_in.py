"""Stands in for TensorRT's runtime: the classes and methods that a session uses, run on the CPU from raw addresses.

A plan is an ONNX file with its weights inside. Nodes of the plugin lowering are the reference; all else is ONNX
Runtime's, or where plugin nodes are among it, onnx's own evaluator. As TensorRT does, a context refuses shapes outside
the active profile, a missing address, an aliased pair with two addresses, and any other pair with one; it logs the
reason and answers False.
"""

from __future__ import annotations

import ctypes
import json
from enum import Enum
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from innerq_export.spec.ops import OPS, config_of, resolve

__version__ = "11.4.0"
DataType = Enum("DataType", "FLOAT HALF BF16 INT8 INT32 INT64 BOOL")
TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
LOADED: list[str] = []
_TYPES = {
    onnx.TensorProto.FLOAT: (DataType.FLOAT, np.float32),
    onnx.TensorProto.FLOAT16: (DataType.HALF, np.float16),
    onnx.TensorProto.INT8: (DataType.INT8, np.int8),
    onnx.TensorProto.INT32: (DataType.INT32, np.int32),
    onnx.TensorProto.INT64: (DataType.INT64, np.int64),
}


class ILogger:
    ERROR, INTERNAL_ERROR = "error", "internal error"


class Registry:
    """As TensorRT 11.4's: a second library with the same creators is refused."""

    @property
    def all_creators(self):
        return [SimpleNamespace(name="InnerQAppend", plugin_namespace="innerq") for _ in LOADED]

    def load_library(self, path):
        if LOADED:
            return None
        LOADED.append(path)
        return object()


def get_plugin_registry():
    return Registry()


class Runtime:
    def __init__(self, logger):
        self._logger = logger

    def deserialize_cuda_engine(self, content):
        try:
            return ICudaEngine(onnx.load_model_from_string(bytes(content)), self._logger)
        except Exception as error:
            self._logger.log(ILogger.ERROR, f"no plan: {type(error).__name__}")
            return None


class ICudaEngine:
    def __init__(self, model, logger):
        self._logger = logger
        stated = {entry.key: entry.value for entry in model.metadata_props}
        self._profiles = json.loads(stated["profiles"])
        self._aliased = json.loads(stated["aliased"])
        self._values = [*model.graph.input, *model.graph.output]
        self._by_name = {value.name: value.type.tensor_type for value in self._values}
        self._inputs = {value.name for value in model.graph.input}
        self._evaluate = evaluator(model)

    @property
    def num_io_tensors(self):
        return len(self._values)

    def get_tensor_name(self, index):
        return self._values[index].name

    def get_tensor_dtype(self, name):
        return _TYPES[self._by_name[name].elem_type][0]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in self._by_name[name].shape.dim)

    def create_execution_context(self):
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self._engine, self._shapes, self._addresses = engine, {}, {}
        self.active_optimization_profile = 0

    def set_optimization_profile_async(self, profile_index, stream_handle):
        self.active_optimization_profile, self._shapes = profile_index, {}
        return 0 <= profile_index < len(self._engine._profiles)

    def set_input_shape(self, name, shape):
        symbols = [dim.dim_param or dim.dim_value for dim in self._engine._by_name[name].shape.dim]
        profile = self._engine._profiles[self.active_optimization_profile]
        ranges = {"B": profile["batch"], "S": profile["tokens"], "NB": profile["blocks"]}
        for symbol, size in zip(symbols, shape, strict=True):
            limits = ranges.get(symbol, {"min": symbol, "max": symbol})
            if not limits["min"] <= size <= limits["max"]:
                return self._refuse(f"{name}: {symbol} = {size} is outside of {limits}")
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return bool(memory) and memory % 16 == 0

    def infer_shapes(self):
        return [name for name in self._engine._inputs if name not in self._shapes]

    def get_tensor_shape(self, name):
        batch, tokens = self._shapes["input_ids"]
        known = {"B": batch, "S": tokens}
        dims = self._engine._by_name[name].shape.dim
        return tuple(known[dim.dim_param] if dim.dim_param else dim.dim_value for dim in dims)

    def execute_async_v3(self, stream_handle):
        if missing := set(self._engine._by_name) - set(self._addresses):
            return self._refuse(f"no address of {sorted(missing)}")
        for past in (name for name in self._engine._inputs if name.replace("past", "present", 1) in self._addresses):
            one = self._addresses[past] == self._addresses[past.replace("past", "present", 1)]
            if past.startswith("past_") and one != self._engine._aliased:
                return self._refuse(f"{past} and its present are {'one' if one else 'two'} buffers")
        outputs = self._engine._evaluate({name: self._array(name, self._shapes[name]) for name in self._engine._inputs})
        for name, array in outputs.items():
            self._array(name, array.shape)[...] = array
        return True

    def _array(self, name, shape):
        dtype = np.dtype(_TYPES[self._engine._by_name[name].elem_type][1])
        count = int(np.prod(shape)) * dtype.itemsize
        raw = (ctypes.c_char * count).from_address(self._addresses[name])
        return np.frombuffer(raw, dtype).reshape(shape)

    def _refuse(self, reason):
        self._engine._logger.log(ILogger.ERROR, reason)
        return False


def evaluator(model):
    """Return feeds -> outputs by name."""
    names = [value.name for value in model.graph.output]
    bodies = {(function.domain, function.name) for function in model.functions}
    if any(node.domain == "innerq" and (node.domain, node.op_type) not in bodies for node in model.graph.node):
        reference = ReferenceEvaluator(model, new_ops=[Append, Attention])
        return lambda feeds: dict(zip(names, reference.run(names, copied(feeds)), strict=True))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return lambda feeds: dict(zip(names, session.run(names, copied(feeds)), strict=True))


def copied(feeds):
    return {name: array.copy() for name, array in feeds.items()}


class _Plugin(OpRun):
    op_domain = "innerq"

    def _run(self, *inputs, scale=0.0, plugin_namespace=None, plugin_version=None, **attributes):
        op = OPS[self.onnx_node.op_type]
        config = config_of(attributes)
        named = {
            port.name: torch.from_numpy(np.ascontiguousarray(array))
            for port, array in zip(op.inputs_for(config, "packed"), inputs, strict=True)
        }
        outputs = resolve(op.reference)(config, "packed", named, scale)
        return tuple(outputs[port.name].numpy() for port in op.outputs_for(config, "packed"))


class Append(_Plugin):
    __qualname__ = "InnerQAppend"


class Attention(_Plugin):
    __qualname__ = "InnerQAttention"


Append.__name__, Attention.__name__ = "InnerQAppend", "InnerQAttention"
