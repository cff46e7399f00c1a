"""Quantising groups of 32 values: SPEC section 4, every mode, in fp32 with fp16 scales and zeros.

Codes are logical: the stored code minus 2^(b-1). For `symmetric` and `symmetric_full` that is the formula's code
itself; for `asymmetric` the formula's code 0..2^b-1 is shifted so that 8 bits fit int8.
The sign of a zero means nothing, except as the `hybrid` flag: a scale with its sign bit set is asymmetric.
Method: InnerQ, arXiv 2602.23200; `symmetric_full` and the tie rules are this project's (SPEC sections 4 and 8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.errors import UserError, nearest
from innerq_export.spec import GROUP_SIZE


@dataclass(frozen=True)
class Quantised:
    """Groups [..., 32] as int8 `code` [..., 32], fp16 `scale` [...] and, for modes that have one, fp16 `zero` [...]."""

    code: Tensor
    scale: Tensor
    zero: Tensor | None = None


def quantise(x_g32: Tensor, bits: int, mode: str, name: str = "x") -> Quantised:
    """Quantise groups [..., 32] of any float type. UserError, naming `name`, for input or scales beyond fp16."""
    if x_g32.shape[-1] != GROUP_SIZE:
        raise UserError(f"quantise: '{name}' has the wrong group size", expected=GROUP_SIZE, got=x_g32.shape[-1])
    return quantise_groups(x_g32, bits, mode, name)


def quantise_groups(x_gN: Tensor, bits: int, mode: str, name: str = "x") -> Quantised:
    """Quantise groups [..., N] as `quantise` does, N any power of two: for comparisons, the contract has 32."""
    if mode not in _MODES:
        raise UserError(f"unknown mode '{mode}'", expected=", ".join(_MODES), got=mode, fix=nearest(mode, _MODES))
    x = x_gN.to(torch.float32)
    require_finite(x, name)
    quantised = _MODES[mode](x, bits)
    require_finite(quantised.scale, f"scale of {name}")
    if quantised.zero is not None:
        require_finite(quantised.zero, f"zero of {name}")
    return quantised


def dequantise(quantised: Quantised, bits: int, mode: str) -> Tensor:
    """Return the fp32 values [..., 32] that the groups stand for: code * s, or code * s + z."""
    code = quantised.code.to(torch.float32)
    scale = quantised.scale.to(torch.float32)[..., None]
    if quantised.zero is None:
        return code * scale
    zero = quantised.zero.to(torch.float32)[..., None]
    shifted = code + 2 ** (bits - 1)
    if mode == "hybrid":
        shifted = torch.where(torch.signbit(scale), shifted, code)
    return shifted * scale.abs() + zero


def require_finite(x: Tensor, name: str) -> None:
    """Raise UserError naming the tensor, the first bad place and its value, unless all of `x` is finite."""
    bad = ~torch.isfinite(x)
    if bad.any():
        place = bad.nonzero()[0].tolist()
        raise UserError(
            f"tensor '{name}' is not finite (or leaves the range of fp16) at {place}",
            expected="finite values within +-65,504",
            got=x[tuple(place)].item(),
            fix="look for an overflow in the layer that makes it; bf16 models may need fp32 activations there",
        )


def _symmetric(x: Tensor, bits: int) -> Quantised:
    qmax = 2 ** (bits - 1) - 1
    scale = (x.abs().amax(-1) / qmax).to(torch.float16)
    return Quantised(_codes(x, scale, -qmax, qmax).to(torch.int8), scale)


def _symmetric_full(x: Tensor, bits: int) -> Quantised:
    half = 2 ** (bits - 1)
    largest = x.gather(-1, x.abs().argmax(-1, keepdim=True))[..., 0]
    scale = (-largest / half).to(torch.float16)
    return Quantised(_codes(x, scale, -half, half - 1).to(torch.int8), scale)


def _asymmetric(x: Tensor, bits: int) -> Quantised:
    top = 2**bits - 1
    low = x.amin(-1)
    scale = ((x.amax(-1) - low) / top).to(torch.float16)
    zero = low.to(torch.float16) + 0.0
    code = _codes(x - zero.to(torch.float32)[..., None], scale, 0, top)
    return Quantised((code - 2 ** (bits - 1)).to(torch.int8), scale, zero)


def _hybrid(x: Tensor, bits: int) -> Quantised:
    symmetric, asymmetric = _symmetric(x, bits), _asymmetric(x, bits)
    better = _error(x, asymmetric, bits, "asymmetric") < _error(x, symmetric, bits, "symmetric")
    assert asymmetric.zero is not None
    return Quantised(
        torch.where(better[..., None], asymmetric.code, symmetric.code),
        torch.where(better, -asymmetric.scale, symmetric.scale),
        torch.where(better, asymmetric.zero, 0.0),
    )


_MODES: dict[str, Callable[[Tensor, int], Quantised]] = {
    "symmetric": _symmetric,
    "symmetric_full": _symmetric_full,
    "asymmetric": _asymmetric,
    "hybrid": _hybrid,
}


def _codes(x: Tensor, scale: Tensor, low: int, high: int) -> Tensor:
    """Return clamp(rint(x / s), low, high) as fp32; 0 where s is 0."""
    step = scale.to(torch.float32)[..., None]
    return torch.where(step == 0, 0.0, x / step).round().clamp(low, high)


def _error(x: Tensor, quantised: Quantised, bits: int, mode: str) -> Tensor:
    """Return the fp32 sum of abs errors of each group, added by halving: x[i] + x[i+16], then i+8, 4, 2, 1."""
    error = (x - dequantise(quantised, bits, mode)).abs()
    while (half := error.shape[-1] // 2) > 0:
        error = error[..., :half] + error[..., half:]
    return error[..., 0]
