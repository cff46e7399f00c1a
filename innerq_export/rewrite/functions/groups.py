"""Quantising groups of 32 as ONNX nodes: SPEC section 4, in fp32 with fp16 scales, equal bit for bit to the reference.

A group lies along `axis` of an fp32 tensor: -1 for keys (32 channels of a token), -2 for values (32 tokens of one
channel). Codes come out fp32, offset as the logical layout stores them: the code itself in the symmetric modes, the
code minus 2^(b-1) in `asymmetric`; in `hybrid` what was chosen, where a scale with its sign bit set says asymmetric.

fp16 is only ever cast and moved here, never computed with: around fp16 arithmetic for which ONNX Runtime (1.31, CPU)
has no kernel it works in fp32 and drops the casts on both sides, and with them the rounding that the contract asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from innerq_export.spec import GROUP_SIZE

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT, _FLOAT16 = 1, 10


@dataclass(frozen=True)
class QuantisedGroups:
    """`code` has the input's shape; `scale` and `zero`, fp32 of fp16 values, are 1 long on the group's axis."""

    code: ir.Value
    scale: ir.Value
    zero: ir.Value | None = None


def quantise_groups(op: Any, x: ir.Value, axis: int, bits: int, mode: str) -> QuantisedGroups:
    """Return codes, scales and zeros of every group of `x` (fp32, 32 long on `axis`)."""
    return _MODES[mode](op, x, axis, bits)


def _symmetric(op: Any, x: ir.Value, axis: int, bits: int) -> QuantisedGroups:
    largest_code = 2 ** (bits - 1) - 1
    scale = half_precision(op, op.Div(op.ReduceMax(op.Abs(x), [axis]), float(largest_code)))
    return QuantisedGroups(_codes(op, x, scale, -largest_code, largest_code), scale)


def _symmetric_full(op: Any, x: ir.Value, axis: int, bits: int) -> QuantisedGroups:
    half_range = 2 ** (bits - 1)
    size = op.Abs(x)
    largest = op.ReduceMax(size, [axis])
    below = _first_largest_is_negative(op, x, op.Equal(size, largest), axis)
    scale = half_precision(op, op.Div(largest, op.Where(below, float(half_range), float(-half_range))))
    return QuantisedGroups(_codes(op, x, scale, -half_range, half_range - 1), scale)


def _asymmetric(op: Any, x: ir.Value, axis: int, bits: int) -> QuantisedGroups:
    smallest = op.ReduceMin(x, [axis])
    spread = op.Sub(op.ReduceMax(x, [axis]), smallest)
    scale, zero = half_precision(op, op.Div(spread, float(2**bits - 1))), half_precision(op, smallest)
    code = _codes(op, op.Where(op.Equal(scale, 0.0), 0.0, op.Sub(x, zero)), scale, 0, 2**bits - 1)
    return QuantisedGroups(op.Sub(code, float(2 ** (bits - 1))), scale, zero)


def _hybrid(op: Any, x: ir.Value, axis: int, bits: int) -> QuantisedGroups:
    one, other = _symmetric(op, x, axis, bits), _asymmetric(op, x, axis, bits)
    other_code = op.Add(other.code, float(2 ** (bits - 1)))
    one_value = op.Mul(one.code, one.scale)
    other_value = op.Add(op.Mul(other_code, other.scale), other.zero)
    keep = op.LessOrEqual(_error_sum(op, x, one_value, axis), _error_sum(op, x, other_value, axis))
    return QuantisedGroups(
        op.Where(keep, one.code, other.code),
        op.Where(keep, one.scale, op.Neg(other.scale)),
        op.Where(keep, 0.0, other.zero),
    )


def _codes(op: Any, x: ir.Value, scale: ir.Value, lowest: int, highest: int) -> ir.Value:
    """Return clamp(rint(x / scale), lowest, highest).

    A scale of 0 is taken as 1: then |x| < 0.5, because the scale is |x| / 128 or more rounded to a multiple of 2^-24,
    and all codes are 0.
    """
    quotient = op.Div(x, op.Where(op.Equal(scale, 0.0), 1.0, scale))
    return op.Clip(op.Round(quotient), float(lowest), float(highest))


def _first_largest_is_negative(op: Any, x: ir.Value, is_largest: ir.Value, axis: int) -> ir.Value:
    """Return whether the first x of largest magnitude is below 0, kept dims: the sign of sum x_i 4^-i over these x.

    Each term exceeds the sum of all later ones, so no rounding changes the sign. (Runtimes differ in ArgMax's ties.)
    """
    weights = op.Reshape([4.0**-i for i in range(GROUP_SIZE)], [GROUP_SIZE, 1] if axis == -2 else [1, GROUP_SIZE])
    return op.Less(op.ReduceSum(op.Where(is_largest, op.Mul(x, weights), 0.0), [axis]), 0.0)


def _error_sum(op: Any, x: ir.Value, value: ir.Value, axis: int) -> ir.Value:
    """Return the sum of abs errors of a group, kept dims, added by halving: i + 16, then 8, 4, 2, 1."""
    total = op.Abs(op.Sub(x, value))
    width = GROUP_SIZE
    while width > 1:
        width //= 2
        low, high = op.Split(total, axis=axis, num_outputs=2, _outputs=2)
        total = op.Add(low, high)
    return total


def half_precision(op: Any, x: ir.Value) -> ir.Value:
    """Return fp32 values rounded to what fp16 can hold."""
    return op.Cast(op.Cast(x, to=_FLOAT16), to=_FLOAT)


_MODES = {
    "symmetric": _symmetric,
    "symmetric_full": _symmetric_full,
    "asymmetric": _asymmetric,
    "hybrid": _hybrid,
}
