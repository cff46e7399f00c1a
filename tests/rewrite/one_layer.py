"""One attention layer as an ONNX model of the two functions, run step by step beside the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from innerq_export.reference import Blocks, Cache, append, attend, empty_cache
from innerq_export.rewrite.functions import OPSET, append_function, attention_function
from innerq_export.rewrite.geometry import Geometry
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, DOMAIN, attributes_of

TORCH = {ir.DataType.FLOAT16: torch.float16, ir.DataType.FLOAT: torch.float32}
Mutation = Callable[[ir.Function, ir.Function], None]


class OneLayer:
    """Append then Attention in ONNX Runtime; holds no cache between calls. `mutate` may damage the two functions."""

    def __init__(
        self, config: CacheConfig, geometry: Geometry, flavour: str = "matmul", mutate: Mutation | None = None
    ) -> None:
        functions = [append_function(config, geometry), attention_function(config, geometry, flavour)]
        if mutate:
            mutate(*functions)
        self.config, self.geometry = config, geometry
        proto = ir.to_proto(one_layer_model(config, geometry, functions))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])

    def step(self, cache: Cache, tokens: Tokens) -> tuple[Cache, torch.Tensor]:
        """Return the cache after Append, and the output of Attention."""
        feeds = {"query": tokens.query, "key": tokens.key, "value": tokens.value}
        feeds |= {"past_length": cache.length_B, "new_length": tokens.new_length_B}
        feeds |= {"past_window": cache.window_B2HkvWD, "past_key_norm": cache.key_norm_BHkvD}
        feeds |= {f"past_{name}": tensor for name, tensor in cache.blocks.tensors().items()}
        arrays = self.session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        output, window, key_norm, *blocks = (torch.from_numpy(array) for array in arrays)
        named = dict(zip(cache.blocks.tensors(), blocks, strict=True))
        length_B = cache.length_B + tokens.new_length_B
        return Cache(self.config, length_B, window, key_norm, Blocks.of(named)), output

    def empty(self, batch: int, capacity_blocks: int) -> Cache:
        """Return an empty cache of this layer's geometry and type."""
        sizes = (batch, self.geometry.kv_heads, self.geometry.head_dim, capacity_blocks)
        return empty_cache(self.config, *sizes, dtype=TORCH[self.geometry.dtype])


class Tokens:
    """Random new tokens of one call: `new_length[b]` real ones of `width` rows, heavy-tailed as keys are."""

    def __init__(self, geometry: Geometry, width: int, new_length: Sequence[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        dtype = TORCH[geometry.dtype]

        def draw(heads: int) -> torch.Tensor:
            shape = (len(new_length), heads, width, geometry.head_dim)
            loud = np.where(rng.random(geometry.head_dim) < 0.1, 6.0, 1.0)
            return torch.from_numpy((rng.standard_t(4, shape) * loud).astype(np.float32)).to(dtype)

        self.query, self.key, self.value = draw(geometry.heads) / 3, draw(geometry.kv_heads), draw(geometry.kv_heads)
        self.new_length_B = torch.tensor(list(new_length), dtype=torch.int32)


@lru_cache(maxsize=64)
def one_layer(
    config: CacheConfig, dtype: ir.DataType = ir.DataType.FLOAT16, flavour: str = "matmul", head_dim: int = 64
) -> OneLayer:
    """Return the undamaged layer of 4 query and 2 KV heads; sessions are kept, tests share them."""
    return OneLayer(config, Geometry(4, 2, head_dim, head_dim**-0.5, dtype), flavour)


def walk(layer: OneLayer, calls: Sequence[Sequence[int]], *, capacity_blocks: int = 8, seed: int = 0) -> float:
    """Feed `calls` (new tokens of each sequence) to the layer and to the reference; return the worst dB of a call.

    AssertionError that names the first tensor that is not equal bit for bit.
    """
    cache = layer.empty(len(calls[0]), capacity_blocks)
    worst = float("inf")
    for index, new_length in enumerate(calls):
        width = max(1, *new_length)
        tokens = Tokens(layer.geometry, width, new_length, seed + index)
        expected = append(cache, tokens.key, tokens.value, tokens.new_length_B)
        attended = attend(
            expected, tokens.query, tokens.key, tokens.value, cache.length_B, tokens.new_length_B, layer.geometry.scale
        )
        got, output = layer.step(cache, tokens)
        assert_same_cache(expected, got, f"call {index}, {cache.length_B.tolist()} + {list(new_length)} tokens")
        worst = min(worst, signal_to_noise_db(attended, output))
        cache = got
    return worst


def assert_same_cache(expected: Cache, got: Cache, where: str) -> None:
    """Hold every tensor of two caches together, exactly; the sign of a zero counts only where it is a flag."""
    pairs = {"window": (expected.window_B2HkvWD, got.window_B2HkvWD)}
    pairs["key_norm"] = (expected.key_norm_BHkvD, got.key_norm_BHkvD)
    pairs |= {name: (tensor, got.blocks.tensors()[name]) for name, tensor in expected.blocks.tensors().items()}
    for name, (one, other) in pairs.items():
        assert one.dtype == other.dtype, f"{name}: {one.dtype} != {other.dtype}"
        different = one != other
        if name.endswith("scales") and getattr(expected.config, f"{name.split('_')[0]}_mode") == "hybrid":
            different |= torch.signbit(one) != torch.signbit(other)
        place = different.nonzero()[:1].tolist()
        assert not place, f"{where}: {name} differs first at {place[0]}, in {int(different.sum())} places"


def signal_to_noise_db(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Return the worst 20 log10(norm of expected / norm of difference) over heads and tokens; rows of 0 must be 0."""
    signal = expected.double().norm(dim=-1)
    noise = (expected.double() - got.double()).norm(dim=-1)
    if (noise[signal == 0] != 0).any():
        return -float("inf")
    ratios = signal[signal > 0] / noise[signal > 0].clamp(min=1e-30)
    return float(20 * torch.log10(ratios.min())) if ratios.numel() else float("inf")


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
