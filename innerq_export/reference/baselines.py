"""Other calibration-free ways to hold a KV cache in few bits, each at the settings of its source.

Scales and zeros are fp16 and counted. Every scheme reads prompts, and a query its own token, in full precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export.reference.scheme import Hold, Scheme
from innerq_export.spec import GROUP_SIZE

KIVI = "KIVI, arXiv 2402.02750"
KIVI_SINKS = "KIVI with sinks: the setting of InnerQ's scripts, arXiv 2602.23200"
FP8 = "FP8 Formats for Deep Learning, arXiv 2209.05433; scale 1, as serving engines use it without calibration"
PER_TOKEN = "one asymmetric group per token and head, as LMDeploy's int8 and int4 caches"
HADAMARD = "QuaRot, arXiv 2404.00456: Hadamard rotation, asymmetric groups, clipping 0.95"
ZERO_AND_SCALE_BITS = 32.0
KIVI_RESIDUAL = 128
QUAROT_CLIP = 0.95
E4M3_MAX = 448.0
_EVERYTHING = Hold(sink=0, recent=0, flush=1)


def baselines(head_dim: int) -> tuple[Scheme, ...]:
    """Return every baseline for heads of `head_dim` channels, a multiple of 32."""
    return (
        kivi(2),
        kivi(4),
        kivi(2, sinks=True),
        kivi(4, sinks=True),
        hadamard(3),
        hadamard(3, window=True),
        per_token(4, head_dim),
        per_token(8, head_dim),
        fp8(),
    )


def kivi(bits: int, sinks: bool = False) -> Scheme:
    """Keys in groups of 32 tokens per channel, values of 32 channels per token, both asymmetric.

    Keys are quantised when 128 tokens are together, values one by one beyond 128; with sinks: 32 sinks and 96 recent,
    keys 32 at a time.
    """
    key_hold = Hold(32, 96, 32) if sinks else Hold(0, 0, KIVI_RESIDUAL)
    value_hold = Hold(32, 96, 1) if sinks else Hold(0, KIVI_RESIDUAL, 1)

    def read_back(key: Tensor, value: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        return over_tokens(key, bits, key_hold.sink), over_channels(value, bits)

    cost = bits + ZERO_AND_SCALE_BITS / GROUP_SIZE
    source = KIVI_SINKS if sinks else KIVI
    return Scheme(f"kivi-{bits}{'-sinks' if sinks else ''}", source, cost, cost, key_hold, value_hold, read_back)


def hadamard(bits: int, window: bool = False) -> Scheme:
    """Keys and values rotated by a Hadamard matrix over the head, then asymmetric groups of 32 channels.

    With `window`, InnerQ's 32 sinks and 96 recent tokens stay in full precision (not in QuaRot).
    """
    hold = Hold(32, 96, 1) if window else _EVERYTHING

    def one(x: Tensor) -> Tensor:
        rotation = hadamard_matrix(x.shape[-1]).to(x.device)
        return over_channels(x.float() @ rotation, bits, QUAROT_CLIP) @ rotation.T

    def read_back(key: Tensor, value: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        return one(key), one(value)

    cost = bits + ZERO_AND_SCALE_BITS / GROUP_SIZE
    return Scheme(f"hadamard-{bits}{'-window' if window else ''}", HADAMARD, cost, cost, hold, hold, read_back)


def per_token(bits: int, head_dim: int) -> Scheme:
    """One asymmetric group per token and head, for keys and values; everything but the query's own token."""

    def read_back(key: Tensor, value: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        return asymmetric(key.float(), bits), asymmetric(value.float(), bits)

    cost = bits + ZERO_AND_SCALE_BITS / head_dim
    return Scheme(f"int{bits}-token", PER_TOKEN, cost, cost, _EVERYTHING, _EVERYTHING, read_back)


def fp8() -> Scheme:
    """E4M3 with scale 1, saturating at +-448; everything but the query's own token."""

    def one(x: Tensor) -> Tensor:
        return x.float().clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).float()

    def read_back(key: Tensor, value: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        return one(key), one(value)

    return Scheme("fp8-e4m3", FP8, 8.0, 8.0, _EVERYTHING, _EVERYTHING, read_back)


def asymmetric(x_gN: Tensor, bits: int, clip: float = 1.0) -> Tensor:
    """Return groups [..., N] as they read back from `bits`-bit codes between clip * min and clip * max (fp32).

    Scale and zero are rounded to fp16 first; a group without spread reads as its zero.
    """
    top = 2**bits - 1
    low, high = clip * x_gN.amin(-1, keepdim=True), clip * x_gN.amax(-1, keepdim=True)
    scale = ((high - low) / top).half().float()
    zero = low.half().float()
    code = torch.where(scale == 0, 0.0, (x_gN - zero) / scale).round().clamp(0, top)
    return code * scale + zero


def over_channels(x_BHTD: Tensor, bits: int, clip: float = 1.0) -> Tensor:
    """Return x read back from asymmetric groups of 32 channels of one token."""
    return asymmetric(x_BHTD.float().unflatten(-1, (-1, GROUP_SIZE)), bits, clip).flatten(-2)


def over_tokens(x_BHTD: Tensor, bits: int, first: int) -> Tensor:
    """Return x read back from asymmetric groups of 32 tokens of one channel, from token `first` on.

    Tokens before it, and those that fill no group, stay as they are.
    """
    whole = max(0, x_BHTD.shape[2] - first) // GROUP_SIZE * GROUP_SIZE
    read = x_BHTD.float().clone()
    groups = read[:, :, first : first + whole].unflatten(2, (-1, GROUP_SIZE)).transpose(-1, -2)
    read[:, :, first : first + whole] = asymmetric(groups, bits).transpose(-1, -2).flatten(2, 3)
    return read


def hadamard_matrix(size: int) -> Tensor:
    """Return the orthonormal rotation [size, size]: Sylvester's matrix of the largest power of two in it, repeated."""
    power = size & -size
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < power:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return torch.block_diag(*[matrix / power**0.5] * (size // power))
