"""One attention layer as an ONNX model of the two functions, and the reference cache in its shape."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from innerq_export.reference import Blocks, Cache, empty_cache
from innerq_export.rewrite.functions import OPSET, append_function, attention_function
from innerq_export.rewrite.geometry import Geometry
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, DOMAIN, attributes_of


class OneLayer:
    """Runs Append then Attention in ONNX Runtime on numpy arrays, keeping nothing between calls."""

    def __init__(self, config: CacheConfig, geometry: Geometry, flavour: str = "matmul", mutate=None):
        functions = [append_function(config, geometry), attention_function(config, geometry, flavour)]
        if mutate:
            mutate(*functions)
        self.config, self.geometry = config, geometry
        self.model = one_layer_model(config, geometry, functions)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            ir.to_proto(self.model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.past_names = [value.name for value in self.session.get_inputs() if value.name.startswith("past_")][1:]

    def step(self, cache: Cache, query, key, value, new_length) -> tuple[Cache, torch.Tensor]:
        """Return the cache after Append and the output of Attention."""
        feeds = {"query": query, "key": key, "value": value, "past_length": cache.length_B, "new_length": new_length}
        feeds |= {"past_window": cache.window_B2HkvWD, "past_key_norm": cache.key_norm_BHkvD}
        feeds |= {f"past_{name}": tensor for name, tensor in cache.blocks.tensors().items()}
        arrays = self.session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        output, window, key_norm, *blocks = (torch.from_numpy(array) for array in arrays)
        named = dict(zip(cache.blocks.tensors(), blocks, strict=True))
        length_B = cache.length_B + new_length
        return Cache(self.config, length_B, window, key_norm, Blocks.of(named)), output

    def empty(self, batch: int, capacity_blocks: int) -> Cache:
        """Return an empty reference cache of this layer's geometry and type."""
        dtype = torch.float16 if self.geometry.dtype == ir.DataType.FLOAT16 else torch.float32
        return empty_cache(
            self.config, batch, self.geometry.kv_heads, self.geometry.head_dim, capacity_blocks, dtype=dtype
        )


def one_layer_model(config: CacheConfig, geometry: Geometry, functions: list[ir.Function]) -> ir.Model:
    """Return a model whose graph is one InnerQAppend and one InnerQAttention."""
    values = {
        port.name: geometry.value(port, config)
        for op in (APPEND, ATTENTION)
        for port in (*op.inputs_for(config, "logical"), *op.outputs_for(config, "logical"))
    }
    nodes = [
        ir.Node(
            DOMAIN,
            op.name,
            [values[port.name] for port in op.inputs_for(config, "logical")],
            outputs=[values[port.name] for port in op.outputs_for(config, "logical")],
            attributes=ir.convenience.convert_attributes(attributes_of(op, config, geometry.scale)),
        )
        for op in (APPEND, ATTENTION)
    ]
    inputs = [value for value in values.values() if value.producer() is None]
    outputs = [values["output"], *nodes[0].outputs]
    graph = ir.Graph(inputs, outputs, nodes=nodes, opset_imports={"": OPSET, DOMAIN: 1}, name="one_layer")
    return ir.Model(graph, ir_version=10, functions=functions)


def signal_to_noise_db(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Return 10 log10 of the power of `expected` over that of the difference."""
    noise = (expected.double() - got.double()).pow(2).sum()
    return float(10 * torch.log10(expected.double().pow(2).sum() / noise.clamp(min=1e-300)))


def random_tokens(rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Return heavy-tailed values with a few large channels, as keys have them."""
    values = rng.standard_t(4, shape) * np.where(rng.random(shape[-1]) < 0.1, 6.0, 1.0)
    return torch.from_numpy(values.astype(np.float32)).to(dtype)
