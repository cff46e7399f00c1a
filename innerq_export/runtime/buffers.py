"""The cache of a session in memory: one buffer per tensor, bound as past and as present, so nothing is ever copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from innerq_export.spec.ops import cache_ports

if TYPE_CHECKING:
    import onnxruntime

PAST, PRESENT = "past_", "present_"
STATE_INPUTS = ("past_length",)
BATCH_AXIS, BLOCK_AXIS = 0, 2
BLOCK_PARTS = {port.name.removeprefix(PAST) for port in cache_ports("past") if port.shape[2:3] == ("NB",)}
_DTYPES = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int8)": np.int8}


class CacheBuffers:
    """Arrays of all `past_*` inputs of a model, for `batch` sequences with room for `capacity` blocks each.

    A fresh cache is zero, its key norms are one. `arrays` maps input names to the live arrays: ONNX Runtime reads and
    writes them in place.
    """

    def __init__(self, inputs: Sequence[onnxruntime.NodeArg], batch: int, capacity: int):
        self._inputs = [node for node in inputs if node.name.startswith(PAST) and node.name not in STATE_INPUTS]
        self.capacity = capacity
        self.arrays: dict[str, np.ndarray] = {}
        for node in self._inputs:
            fill = 1 if part_of(node.name) == "key_norm" else 0
            self.arrays[node.name] = np.full(_shape(node, batch, capacity), fill, _DTYPES[node.type])
        self._values = _wrap(self.arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(array.nbytes for array in self.arrays.values())

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` blocks; what the cache holds stays."""
        for name, array in self.arrays.items():
            if part_of(name) in BLOCK_PARTS:
                room = [(0, 0)] * array.ndim
                room[BLOCK_AXIS] = (0, capacity - array.shape[BLOCK_AXIS])
                self.arrays[name] = np.pad(array, room)
        self.capacity = capacity
        self._values = _wrap(self.arrays)

    def bind(self, binding: onnxruntime.IOBinding) -> None:
        """Bind each buffer as past input and as present output."""
        for name, value in self._values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace(PAST, PRESENT, 1), value)

    def layer(self, index: int) -> Mapping[str, np.ndarray]:
        """Return the live arrays of one layer by part: 'window', 'key_norm', 'key_codes', ..."""
        return {part_of(name): array for name, array in self.arrays.items() if name.rpartition("_")[2] == str(index)}


def part_of(name: str) -> str:
    """Return 'key_codes' for 'past_key_codes_3'."""
    return name.removeprefix(PAST).rpartition("_")[0]


def _shape(node: Any, batch: int, capacity: int) -> list[int]:
    shape = list(node.shape)
    shape[BATCH_AXIS] = batch
    if part_of(node.name) in BLOCK_PARTS:
        shape[BLOCK_AXIS] = capacity
    return shape


def _wrap(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return OrtValues that share the arrays' memory: ONNX Runtime does not copy numpy arrays on the CPU."""
    import onnxruntime

    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
