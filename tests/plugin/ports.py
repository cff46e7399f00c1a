"""Tensors of a node for the driver: types, labels and shapes, all read from the op table."""

from __future__ import annotations

from dataclasses import dataclass, field

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import OPS, Op, OpCase, Port, dimensions

TYPES = {"T": "half", "float16": "half", "int32": "int32"}
CASE = OpCase(past=(0, 0), new=(3, 3), heads=4, kv_heads=2, head_dim=64, capacity_blocks=5)


@dataclass(frozen=True)
class Node:
    """One node: its op, cache configuration and sizes; `activation` is 'half' or 'bf16'."""

    op: Op
    config: CacheConfig = field(default_factory=CacheConfig)
    case: OpCase = CASE
    activation: str = "half"

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.op.inputs_for(self.config, "packed")

    @property
    def ports(self) -> tuple[Port, ...]:
        return self.inputs + self.op.outputs_for(self.config, "packed")

    def type_of(self, port: Port) -> str:
        return self.activation if port.dtype == "T" else TYPES[port.dtype]

    def shape_of(self, port: Port) -> tuple[int, ...]:
        return port.sizes(dimensions(self.config, self.case))

    def ranges(self, **changed: tuple) -> list:
        """Return (type, min, opt, max) of every tensor; `changed` replaces shapes by port name."""
        shapes = [(self.type_of(port), changed.get(port.name, self.shape_of(port))) for port in self.ports]
        return [(kind, shape, shape, shape) for kind, shape in shapes]


APPEND, ATTENTION = (Node(op) for op in OPS.values())
NODES = [APPEND, ATTENTION]
