"""Calls of one op that reach every boundary of its cache: no token yet, a block about to be due, chunks, decoding."""

from __future__ import annotations

from innerq_export.artifacts import ModelShape
from innerq_export.spec import GROUP_SIZE, CacheConfig
from innerq_export.spec.ops import OpCase

OP_CASES = 8
"""How many calls `op_cases` makes of one seed."""


def op_cases(config: CacheConfig, shape: ModelShape, dtype: str, seed: int = 0) -> tuple[OpCase, ...]:
    """Return calls of the model's own geometry: the function bodies of a model.onnx know no other."""
    due = config.sink + config.recent + GROUP_SIZE
    calls = (
        ((0, 0), (1, due + 1)),
        ((due - 1, due - 2), (1, 1)),
        ((due + 2, due - 1), (1, 0)),
        ((due + 63, due + 31), (1, 1)),
        ((due + 40, 3), (5, 16)),
        ((due - 20, 0), (33, 70)),
        ((due + 97,), (129,)),
        ((3 * due, due), (2, 40)),
    )
    capacity = 3 * due // GROUP_SIZE + 8
    return tuple(
        OpCase(past, new, shape.heads, shape.kv_heads, shape.head_dim, capacity, dtype, 100 * seed + index)
        for index, (past, new) in enumerate(calls)
    )
