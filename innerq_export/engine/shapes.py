"""The dynamic dimensions of a network, found by their ONNX names, and the shapes of each profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from innerq_export.engine.profiles import Profile, Range
from innerq_export.errors import RewriteError

BATCH, TOKENS, BLOCKS = "B", "S", "NB"


def add_profiles(builder: Any, config: Any, network: Any, profiles: Sequence[Profile]) -> None:
    """Give every network input its smallest, typical and largest shape in each profile.

    Raises RewriteError for a dynamic dimension that is none of B, S and NB.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for profile in profiles:
        shapes = builder.create_optimization_profile()
        for tensor in inputs:
            ranges = [_range_of(tensor, axis, profile) for axis in range(len(tensor.shape))]
            shapes.set_shape(
                tensor.name, *(tuple(getattr(limits, bound) for limits in ranges) for bound in ("min", "opt", "max"))
            )
        config.add_optimization_profile(shapes)


def _range_of(tensor: Any, axis: int, profile: Profile) -> Range:
    size = tensor.shape[axis]
    if size >= 0:
        return Range(size, size, size)
    name = tensor.get_dimension_name(axis)
    known = {BATCH: profile.batch, TOKENS: profile.tokens, BLOCKS: profile.blocks}
    if name not in known:
        raise RewriteError(
            f"input '{tensor.name}' has an unknown dynamic dimension at axis {axis}",
            expected=", ".join(known),
            got=name or "no name",
            fix="name the dimension so in the ONNX file, or give it a fixed size",
        )
    return known[name]
