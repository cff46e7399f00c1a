"""From traced bodies to ONNX functions of the domain `innerq`, for one cache configuration and one model geometry."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
from onnxscript import build_function

from innerq_export.errors import ConfigError, nearest
from innerq_export.rewrite.functions.append import append_body
from innerq_export.rewrite.functions.attention import FLAVOURS, attention_body
from innerq_export.spec import GROUP_SIZE, CacheConfig, has_zeros

OPSET = 23
DOMAIN = "innerq"


@dataclass(frozen=True)
class Geometry:
    """What the bodies know of a model: Hq, Hkv, D, the softmax scale and the type of the activations."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    dtype: ir.DataType

    def __post_init__(self) -> None:
        if self.head_dim % GROUP_SIZE:
            raise ConfigError("head dim", expected=f"a multiple of {GROUP_SIZE}", got=self.head_dim)
        if self.heads % self.kv_heads:
            raise ConfigError("query heads", expected=f"a multiple of {self.kv_heads}", got=self.heads)


def append_function(config: CacheConfig, geometry: Geometry) -> ir.Function:
    """Return InnerQAppend; inputs and outputs in the order of the op table, logical layout."""
    inputs = [*_new_tokens(geometry), *_lengths(), *cache_values("past", config, geometry)]
    return build_function(
        lambda op, *values: append_body(op, list(values), config),
        inputs,
        domain=DOMAIN,
        name="InnerQAppend",
        opset_imports={"": OPSET},
    )


def attention_function(config: CacheConfig, geometry: Geometry, flavour: str = "matmul") -> ir.Function:
    """Return InnerQAttention in one flavour: `matmul` (fp32, for ONNX Runtime) or `attention` (for TensorRT-RTX)."""
    if flavour not in FLAVOURS:
        raise ConfigError(f"unknown attention flavour '{flavour}'", got=flavour, fix=nearest(flavour, FLAVOURS))
    query = _value("query", geometry.dtype, ["B", geometry.heads, "S", geometry.head_dim])
    inputs = [query, *_new_tokens(geometry), *_lengths(), *cache_values("present", config, geometry)]
    return build_function(
        lambda op, *values: attention_body(op, list(values), config, geometry.scale, flavour),
        inputs,
        domain=DOMAIN,
        name="InnerQAttention",
        opset_imports={"": OPSET},
    )


def cache_values(prefix: str, config: CacheConfig, geometry: Geometry, suffix: str = "") -> list[ir.Value]:
    """Return fresh values `<prefix>_<part><suffix>` of one layer's cache in the logical layout, in order."""
    kv_heads, head_dim = geometry.kv_heads, geometry.head_dim
    blocks = ["B", kv_heads, "NB"]
    half, key_groups = ir.DataType.FLOAT16, [*blocks, GROUP_SIZE, head_dim // GROUP_SIZE]
    codes = (ir.DataType.INT8, [*blocks, GROUP_SIZE, head_dim])
    parts = {
        "window": (geometry.dtype, ["B", 2, kv_heads, config.window_tokens, head_dim]),
        "key_norm": (half, ["B", kv_heads, head_dim]),
        "key_codes": codes,
        "key_scales": (half, key_groups),
        "key_zeros": (half, key_groups) if has_zeros(config.key_mode) else None,
        "value_codes": codes,
        "value_scales": (half, [*blocks, head_dim]),
        "value_zeros": (half, [*blocks, head_dim]) if has_zeros(config.value_mode) else None,
    }
    return [_value(f"{prefix}_{name}{suffix}", *part) for name, part in parts.items() if part]


def _new_tokens(geometry: Geometry) -> list[ir.Value]:
    shape = ["B", geometry.kv_heads, "S", geometry.head_dim]
    return [_value("key", geometry.dtype, shape), _value("value", geometry.dtype, shape)]


def _lengths() -> list[ir.Value]:
    return [_value(name, ir.DataType.INT32, ["B"]) for name in ("past_length", "new_length")]


def _value(name: str, dtype: ir.DataType, shape: list) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
