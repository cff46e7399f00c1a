"""What a peer is: a name, the precision of its cache, and how it gets ready for a shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.bench.cases import HALF_BYTES, Case
from innerq_export.bench.inputs import ROTATED_BYTES
from innerq_export.bench.oracle import plain_attend64


@dataclass(frozen=True)
class Prepared:
    """launch(i) for i < `rotation`; `output()` runs set 0 and returns [B, Hq, 1, D]; `expected()` is its fp64 twin."""

    launch: Callable[[int], object]
    rotation: int
    output: Callable[[], Tensor]
    expected: Callable[[], Tensor]
    bytes_moved: int


@dataclass(frozen=True)
class Peer:
    """`prepare(case, device)` raises RuntimeError, ValueError or AssertionError where it cannot do the shape."""

    name: str
    precision: str
    prepare: Callable[[Case, torch.device], Prepared]


def rotation_of(case: Case, element_bytes: int = HALF_BYTES) -> int:
    """Return how many copies of the case's plain cache cover 400 MB, at least two."""
    return max(2, -(-ROTATED_BYTES // case.plain_bytes_moved(element_bytes)))


def expected64(query_BHq1D: Tensor, key_BHkvTD: Tensor, value_BHkvTD: Tensor) -> Tensor:
    """Return fp64 attention of one token over a plain cache of any dtype, a sequence at a time."""
    rows = [plain_attend64(*row) for row in zip(query_BHq1D, key_BHkvTD, value_BHkvTD, strict=True)]
    return torch.stack(rows)
