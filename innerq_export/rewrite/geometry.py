"""The sizes that one layer's ops depend on, and the cache tensors of that layer as graph values."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from innerq_export.errors import ConfigError
from innerq_export.spec import GROUP_SIZE, CacheConfig, record_bytes
from innerq_export.spec.ops import ACTIVATION, Port


def fixed_size(value: ir.Value, axis: int) -> int:
    """Return the size of an axis that is a number, not a symbol."""
    size = value.shape[axis] if value.shape is not None else None
    if not isinstance(size, int):
        raise TypeError(f"axis {axis} of {value.name} has no fixed size: {value.shape}")
    return size


@dataclass(frozen=True)
class Geometry:
    """What the ops know of a model: Hq, Hkv, D, the softmax scale and the type of the activations."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    dtype: ir.DataType

    def __post_init__(self) -> None:
        if self.head_dim % GROUP_SIZE:
            raise ConfigError(
                "head dim", expected=f"a multiple of {GROUP_SIZE}", got=self.head_dim, fix="choose another model"
            )
        if self.heads % self.kv_heads:
            raise ConfigError(
                "query heads", expected=f"a multiple of {self.kv_heads}", got=self.heads, fix="choose another model"
            )

    def value(self, port: Port, config: CacheConfig, name: str | None = None) -> ir.Value:
        """Return a fresh value for a port of the op table; B, S and NB stay symbols."""
        sizes: dict[str | int, int] = {
            "Hq": self.heads,
            "Hkv": self.kv_heads,
            "D": self.head_dim,
            "E": self.head_dim // GROUP_SIZE,
            "W": config.window_tokens,
            "words": record_bytes(config, self.head_dim) // 4,
        }
        dtype = self.dtype if port.dtype == ACTIVATION else ir.DataType[port.dtype.upper()]
        shape = ir.Shape([sizes.get(axis, axis) for axis in port.shape])
        return ir.Value(name=name or port.name, type=ir.TensorType(dtype), shape=shape)
