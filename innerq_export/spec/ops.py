"""The op table: `InnerQAppend` and `InnerQAttention`, declared once for tests, ONNX, plugin and parity (SPEC 7).

ONNX domain `innerq`, version 1. Order of ports is the order of the node's inputs and outputs. Ports of the blocks
exist once per layout, zeros only where the mode stores them: `Op.inputs_for` and `Op.outputs_for` filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from innerq_export.errors import ConfigError, nearest
from innerq_export.spec.config import GROUP_SIZE, CacheConfig
from innerq_export.spec.sizes import has_zeros, record_bytes

DOMAIN = "innerq"
OP_VERSION = 1
LAYOUTS = ("logical", "packed")
ACTIVATION = "T"
"""Dtype of a port that follows the model: float16, bfloat16 or float32."""


@dataclass(frozen=True)
class Port:
    """One input or output. `dtype` is a numpy name or ACTIVATION; `shape` holds symbols of `dimensions` and integers.

    `layout` and `zeros_of` ('key', 'value') restrict it to one layout and to modes with zeros; '' means always there.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    layout: str = ""
    zeros_of: str = ""

    def exists(self, config: CacheConfig, layout: str) -> bool:
        """Whether nodes with this configuration and layout have the port."""
        zeros = not self.zeros_of or has_zeros(getattr(config, f"{self.zeros_of}_mode"))
        return zeros and self.layout in ("", layout)

    def sizes(self, dimensions: Mapping[str, int]) -> tuple[int, ...]:
        """Return the shape with every symbol replaced by its size."""
        return tuple(axis if isinstance(axis, int) else dimensions[axis] for axis in self.shape)


@dataclass(frozen=True)
class Tolerance:
    """How far an op may be from its reference: `exact`, or at least `min_db[dtype]` dB for every head and token.

    dB = 20 log10(norm of reference / norm of difference); `dtype` is that of the activations.
    """

    exact: bool
    min_db: Mapping[str, float]
    reason: str


@dataclass(frozen=True)
class Op:
    """One op: ports, attributes (name -> Python type), and dotted names of its reference and its input generator.

    `reference(config, layout, inputs: dict[str, Tensor], scale) -> dict[str, Tensor]`;
    `generator(config, layout, case: OpCase) -> dict[str, Tensor]`. Both are torch; resolving them imports it.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: Mapping[str, type]
    reference: str
    generator: str
    tolerance: Tolerance

    def inputs_for(self, config: CacheConfig, layout: str) -> tuple[Port, ...]:
        """Return the inputs of a node with this configuration and layout, in order."""
        return tuple(port for port in self.inputs if port.exists(config, layout))

    def outputs_for(self, config: CacheConfig, layout: str) -> tuple[Port, ...]:
        """Return the outputs of a node with this configuration and layout, in order."""
        return tuple(port for port in self.outputs if port.exists(config, layout))


@dataclass(frozen=True)
class OpCase:
    """Sizes of one generated call: `past` and `new` tokens of each sequence; `dtype` of the activations."""

    past: tuple[int, ...]
    new: tuple[int, ...]
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    capacity_blocks: int = 8
    dtype: str = "float16"
    seed: int = 0


def cache_ports(prefix: str) -> tuple[Port, ...]:
    """Return the tensors of one layer's cache, in the order of both ops; `prefix` is 'past' or 'present'."""
    rows = ("B", "Hkv", "NB")

    def block(name: str, dtype: str, *shape: str | int, layout: str = "logical", zeros_of: str = "") -> Port:
        return Port(f"{prefix}_{name}", dtype, (*rows, *shape), layout, zeros_of)

    return (
        Port(f"{prefix}_window", ACTIVATION, ("B", 2, "Hkv", "W", "D")),
        Port(f"{prefix}_key_norm", "float16", ("B", "Hkv", "D")),
        block("blocks", "int32", "words", layout="packed"),
        block("key_codes", "int8", GROUP_SIZE, "D"),
        block("key_scales", "float16", GROUP_SIZE, "E"),
        block("key_zeros", "float16", GROUP_SIZE, "E", zeros_of="key"),
        block("value_codes", "int8", GROUP_SIZE, "D"),
        block("value_scales", "float16", "D"),
        block("value_zeros", "float16", "D", zeros_of="value"),
    )


def dimensions(config: CacheConfig, case: OpCase) -> dict[str, int]:
    """Return the size of every symbol that ports use: B Hq Hkv S D E W NB words."""
    return {
        "B": len(case.past),
        "Hq": case.heads,
        "Hkv": case.kv_heads,
        "S": max(case.new),
        "D": case.head_dim,
        "E": case.head_dim // GROUP_SIZE,
        "W": config.window_tokens,
        "NB": case.capacity_blocks,
        "words": record_bytes(config, case.head_dim) // 4,
    }


_NEW = (
    Port("key", ACTIVATION, ("B", "Hkv", "S", "D")),
    Port("value", ACTIVATION, ("B", "Hkv", "S", "D")),
    Port("past_length", "int32", ("B",)),
    Port("new_length", "int32", ("B",)),
)
_CONFIG_ATTRIBUTES: dict[str, type] = {
    field.name: type(field.default) for field in fields(CacheConfig) if field.name != "group_size"
}

APPEND = Op(
    name="InnerQAppend",
    inputs=(*_NEW, *cache_ports("past")),
    outputs=cache_ports("present"),
    attributes=_CONFIG_ATTRIBUTES,
    reference="innerq_export.reference.ops.append_op",
    generator="innerq_export.reference.ops.append_inputs",
    tolerance=Tolerance(
        exact=True,
        min_db={},
        reason="codes and scales are IEEE fp32 in a fixed order (SPEC 4), windows are copies: no bit may change",
    ),
)
ATTENTION = Op(
    name="InnerQAttention",
    inputs=(Port("query", ACTIVATION, ("B", "Hq", "S", "D")), *_NEW, *cache_ports("present")),
    outputs=(Port("output", ACTIVATION, ("B", "Hq", "S", "D")),),
    attributes=_CONFIG_ATTRIBUTES | {"scale": float},
    reference="innerq_export.reference.ops.attention_op",
    generator="innerq_export.reference.ops.attention_inputs",
    tolerance=Tolerance(
        exact=False,
        min_db={"float16": 40.0, "bfloat16": 26.0, "float32": 90.0},
        reason="an output rounded to the activations' dtype is 66 dB (fp16), 48 dB (bf16) or 144 dB (fp32) right. Keys "
        "and queries rounded alike move a score by its size times a unit of the last place, and with it the weights: "
        "scores about 30, as in peaked attention, cost 20 dB. fp32 keeps 30 dB more for exp and long sums. Measured "
        "with tensor-core rounding: 44, 30, 106 dB at worst; faults: below 31 dB (tests/parity/test_op_tolerance.py)",
    ),
)
OPS: dict[str, Op] = {op.name: op for op in (APPEND, ATTENTION)}


def attributes_of(op: Op, config: CacheConfig, scale: float = 0.0) -> dict[str, Any]:
    """Return a node's attributes, in declaration order; `scale` 0 stands for 1 / sqrt(D)."""
    values = config.to_dict() | {"scale": float(scale)}
    return {name: values[name] for name in op.attributes}


def config_of(attributes: Mapping[str, Any]) -> CacheConfig:
    """Return the configuration that a node's attributes state; ConfigError for unknown or missing ones."""
    for name in attributes:
        if name not in ATTENTION.attributes:
            raise ConfigError(f"unknown attribute '{name}'", got=name, fix=nearest(name, ATTENTION.attributes))
    missing = [name for name in _CONFIG_ATTRIBUTES if name not in attributes]
    if missing:
        raise ConfigError(
            "InnerQ node: attributes are missing",
            expected=list(_CONFIG_ATTRIBUTES),
            got=missing,
            fix="build the engine again",
        )
    return CacheConfig.from_dict({name: attributes[name] for name in _CONFIG_ATTRIBUTES})


def resolve(dotted: str) -> Any:
    """Return the object that a dotted name of the table means, importing its module."""
    module, _, name = dotted.rpartition(".")
    return getattr(import_module(module), name)
