"""Scales chosen by least squares instead of the largest value: the same codes, scales and zeros, read by any kernel.

For codes c the scale of least sum (x - c s)^2 is s = sum(c x) / sum(c c); with a zero point, (s, z) is the line of
least squares through (c, x). Codes and scale are improved in turn (Lloyd, 1982) from several first scales, each a share
of the formula's; the best of all after rounding to fp16 stays, so no group gets worse than by SPEC section 4.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from innerq_export.errors import UserError
from innerq_export.reference.quantise import Quantised, dequantise, quantise

SHARES = (1.0, 0.9, 0.8, 0.7)
ROUNDS = 2


def quantise_least_squares(x_g32: Tensor, bits: int, mode: str, name: str = "x") -> Quantised:
    """Quantise groups [..., 32] like `quantise`, with a squared error that is at most the same in every group.

    UserError for `hybrid`, whose choice of mode is by the sum of abs errors.
    """
    if mode == "hybrid":
        fix = "choose symmetric, symmetric_full or asymmetric"
        raise UserError("least-squares scales: not for mode 'hybrid'", got=mode, fix=fix)
    best = quantise(x_g32, bits, mode, name)
    x = x_g32.to(torch.float32)
    error = _squared_error(x, best, bits, mode)
    for candidate in _candidates(x, best, bits, mode):
        candidate_error = _squared_error(x, candidate, bits, mode)
        better = candidate_error < error
        best, error = _choose(better, candidate, best), torch.where(better, candidate_error, error)
    return best


def _candidates(x: Tensor, first: Quantised, bits: int, mode: str) -> Iterator[Quantised]:
    signs = (1.0, -1.0) if mode == "symmetric_full" else (1.0,)
    for share in (sign * share for sign in signs for share in SHARES):
        scale, zero = first.scale.float() * share, None if first.zero is None else _centred(x, first, bits, share)
        for _ in range(ROUNDS):
            made = _encoded(x, scale, zero, bits, mode)
            yield made
            scale, zero = _fitted(x, made, bits)
        yield _encoded(x, scale, zero, bits, mode)


def _centred(x: Tensor, first: Quantised, bits: int, share: float) -> Tensor:
    """Return the zero point at which a scale of `share` covers the middle of the group's range."""
    half_width = first.scale.float() * share * (2**bits - 1) / 2
    return (x.amax(-1) + x.amin(-1)) / 2 - half_width


def _encoded(x: Tensor, scale: Tensor, zero: Tensor | None, bits: int, mode: str) -> Quantised:
    """Return the nearest codes for an fp16-rounded scale and zero, as SPEC section 4 stores them."""
    half = 2 ** (bits - 1)
    scale16, zero16 = scale.to(torch.float16), None if zero is None else zero.to(torch.float16) + 0.0
    origin = 0.0 if zero16 is None else zero16.to(torch.float32)[..., None]
    step = scale16.to(torch.float32)[..., None]
    code = torch.where(step == 0, 0.0, (x - origin) / step).round()
    if zero16 is not None:
        return Quantised((code.clamp(0, 2 * half - 1) - half).to(torch.int8), scale16, zero16)
    low = 1 - half if mode == "symmetric" else -half
    return Quantised(code.clamp(low, half - 1).to(torch.int8), scale16)


def _fitted(x: Tensor, made: Quantised, bits: int) -> tuple[Tensor, Tensor | None]:
    """Return scale and zero of least squares for the codes of `made`; its own where all codes are alike."""
    code = made.code.to(torch.float32)
    if made.zero is None:
        return _ratio((code * x).sum(-1), code.square().sum(-1), made.scale), None
    code = code + 2 ** (bits - 1)
    spread = code - code.mean(-1, keepdim=True)
    scale = _ratio((spread * x).sum(-1), spread.square().sum(-1), made.scale)
    return scale, x.mean(-1) - scale * code.mean(-1)


def _ratio(above: Tensor, below: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(below == 0, otherwise.to(torch.float32), above / below)


def _squared_error(x: Tensor, quantised: Quantised, bits: int, mode: str) -> Tensor:
    """Return each group's sum of squared errors, inf where scale or zero left the range of fp16."""
    error = (x - dequantise(quantised, bits, mode)).square().sum(-1)
    return torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf)


def _choose(better: Tensor, new: Quantised, old: Quantised) -> Quantised:
    zero = None
    if new.zero is not None and old.zero is not None:
        zero = torch.where(better, new.zero, old.zero)
    return Quantised(
        torch.where(better[..., None], new.code, old.code), torch.where(better, new.scale, old.scale), zero
    )
