"""What an implementation of the two ops is, and the reference as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import Op, resolve

HEAD_DIMS = (64, 128, 256)  # of plugins/launch/innerq.h


class OpBackend(Protocol):
    """Something that runs `InnerQAppend` and `InnerQAttention` on the tensors of the op table, in its own layout."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def layout(self) -> str:
        """'logical' or 'packed'."""

    def lacks(self, config: CacheConfig, dtype: str) -> str:
        """Return why it cannot run here, or ''. `dtype`: the activations'."""

    def run(self, op: Op, config: CacheConfig, inputs: Mapping[str, Tensor], scale: float = 0.0) -> dict[str, Tensor]:
        """Return the op's outputs by name, on the CPU; `inputs` stay as they are."""


def lacks_head_dim(backend: OpBackend, head_dim: int) -> str:
    """Return why a backend has nothing for this head dim, or ''. Packed records are for those of `HEAD_DIMS`."""
    if backend.layout != "packed" or head_dim in HEAD_DIMS:
        return ""
    return f"the kernels take head dims {', '.join(map(str, HEAD_DIMS))}, not {head_dim}"


class ReferenceOps:
    """The references that the op table names."""

    name = "reference"

    def __init__(self, layout: str = "logical"):
        self.layout = layout

    def lacks(self, config: CacheConfig, dtype: str) -> str:
        """Nothing."""
        return ""

    def run(self, op: Op, config: CacheConfig, inputs: Mapping[str, Tensor], scale: float = 0.0) -> dict[str, Tensor]:
        """Run the op's reference."""
        return resolve(op.reference)(config, self.layout, inputs, scale)
