"""The cache of a TensorRT session on the card."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from innerq_export.runtime.buffers import BATCH_AXIS, BLOCK_AXIS, BLOCK_PARTS, PAST, PRESENT, STATE_INPUTS, part_of

if TYPE_CHECKING:
    from innerq_export.runtime.plan import Plan, PlanTensor


class DeviceCache:
    """Tensors of all `past_*` inputs for `batch` sequences with room for `capacity` blocks each.

    Where (past, present) is among `aliases` the plan updates one tensor in place; any other present tensor is a second
    one, and `advance` makes it the past of the next step. A fresh cache is zero, its key norms are one.
    """

    def __init__(
        self,
        tensors: Iterable[PlanTensor],
        aliases: Collection[tuple[str, str]],
        batch: int,
        capacity: int,
        device: torch.device,
    ):
        self.capacity = capacity
        self._past: dict[str, Tensor] = {}
        self._present: dict[str, Tensor] = {}
        for tensor in tensors:
            if not tensor.name.startswith(PAST) or tensor.name in STATE_INPUTS:
                continue
            fill = 1 if part_of(tensor.name) == "key_norm" else 0
            shape = _shape(tensor, batch, capacity)
            past = torch.full(shape, fill, dtype=getattr(torch, tensor.dtype), device=device)
            in_place = (tensor.name, _present(tensor.name)) in aliases
            self._past[tensor.name] = past
            self._present[tensor.name] = past if in_place else torch.zeros_like(past)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(
            tensor.nbytes for tensor in {id(t): t for t in (*self._past.values(), *self._present.values())}.values()
        )

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` blocks; what the cache holds stays. One tensor at a time is there twice."""
        for name, past in self._past.items():
            if part_of(name) in BLOCK_PARTS:
                shape = list(past.shape)
                shape[BLOCK_AXIS] = capacity
                larger = past.new_zeros(shape)
                larger.narrow(BLOCK_AXIS, 0, past.shape[BLOCK_AXIS]).copy_(past)
                in_place = self._present[name] is past
                self._past[name] = larger
                self._present[name] = larger if in_place else torch.zeros_like(larger)
        self.capacity = capacity

    def bind(self, plan: Plan) -> None:
        """Bind every tensor as past input and present output."""
        for name, past in self._past.items():
            plan.bind_input(name, past)
            plan.bind_output(_present(name), self._present[name])

    def advance(self) -> None:
        """Take what the step wrote as the past of the next one."""
        self._past, self._present = self._present, self._past

    def layer(self, index: int) -> Mapping[str, Tensor]:
        """Return the live tensors of one layer by part: 'window', 'key_norm', 'blocks', ..."""
        return {part_of(name): past for name, past in self._past.items() if name.rpartition("_")[2] == str(index)}


def _present(past: str) -> str:
    return past.replace(PAST, PRESENT, 1)


def _shape(tensor: PlanTensor, batch: int, capacity: int) -> list[int]:
    shape = list(tensor.shape)
    shape[BATCH_AXIS] = batch
    if part_of(tensor.name) in BLOCK_PARTS:
        shape[BLOCK_AXIS] = capacity
    return shape
