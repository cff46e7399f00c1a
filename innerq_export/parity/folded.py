"""What an engine with folded key normalisation shows of PyTorch's queries and keys: Q * lambda and K / lambda.

PyTorch runs the checkpoint as it is and lambda is applied here, after RoPE and for each head: the weights into which
`graph/fold.py` folds it are never seen, so that a fault there is a difference here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from innerq_export.artifacts import KeyNorm

Attention = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""(layer, query_BHqSD, key_BHkvSD, value_BHkvSD, scale) -> output_BHqSD."""


def folded(attention: Attention, norm: KeyNorm) -> Attention:
    """Return an attention that takes PyTorch's queries and keys, and gives `attention` what the engine has of them."""
    lambda_LHkvD = torch.from_numpy(norm.lambda_LHkvD).float()

    def normalised(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        lambda_Hkv1D = lambda_LHkvD[layer][:, None]
        lambda_Hq1D = lambda_Hkv1D.repeat_interleave(query.shape[1] // key.shape[1], 0)
        return attention(layer, query * lambda_Hq1D, key / lambda_Hkv1D, value, scale)

    return normalised
