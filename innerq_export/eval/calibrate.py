"""The lambda of key_norm 'folded' (SPEC section 5), calibrated on text: what folding into W_q and W_k would give."""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export.eval.model import Decoder


def calibrated_key_norms(decoder: Decoder, ids_BT: Tensor) -> tuple[Tensor, ...]:
    """Return each layer's fp16 lambda [Hkv, D]: sqrt of the largest abs key of a RoPE pair (c, c + D/2), 1 where 0."""
    norms = []
    for key_BHkvTD in decoder.read(ids_BT).keys:
        pair_HkvPC = key_BHkvTD.abs().amax((0, 2)).unflatten(-1, (2, -1)).amax(1, keepdim=True)
        norm = pair_HkvPC.expand(-1, 2, -1).flatten(1).sqrt().half()
        norms.append(torch.where(norm == 0, 1.0, norm))
    return tuple(norms)
