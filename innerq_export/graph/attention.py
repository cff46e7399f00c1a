"""The attention function that the trace sees: one causal scaled dot product, key/value heads not expanded, no mask.

Registered in transformers' attention interface, so every family's own code runs up to here. A name without a mask
function of its own makes transformers build no mask: causality is the operator's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from innerq_export.errors import CheckpointError

NAME = "innerq_export_trace"
_FIX = "choose another model: docs/models.md lists the families that can be exported"
_MUST_BE_OFF = ("softcap", "s_aux", "position_bias", "logit_bias")


def traced_attention(
    module: torch.nn.Module,
    query_BHqSD: torch.Tensor,
    key_BHkvSD: torch.Tensor,
    value_BHkvSD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **features: Any,
) -> tuple[torch.Tensor, None]:
    """Return (output [B, S, Hq, D], None), as transformers expects it. Raises CheckpointError for more than that."""
    _refuse(module, attention_mask, features)
    grouped = query_BHqSD.shape[1] != key_BHkvSD.shape[1]
    output_BHqSD = scaled_dot_product_attention(
        query_BHqSD, key_BHkvSD, value_BHkvSD, is_causal=True, scale=scaling, enable_gqa=grouped
    )
    return output_BHqSD.transpose(1, 2), None


def _refuse(module: Any, mask: torch.Tensor | None, features: dict[str, Any]) -> None:
    layer = f"{type(module).__name__} of layer {getattr(module, 'layer_idx', '?')}"
    for name in _MUST_BE_OFF:
        if features.get(name) is not None:
            raise CheckpointError(
                f"{layer} uses {name}, which the InnerQ cache does not support", got=features[name], fix=_FIX
            )
    window = features.get("sliding_window")
    if window is not None and window < module.config.max_position_embeddings:
        raise CheckpointError(f"{layer} uses a sliding window shorter than the context", got=window, fix=_FIX)
    if mask is not None or getattr(module, "is_causal", True) is False:
        raise CheckpointError(f"{layer} is not causal self-attention", expected="a causal mask only", fix=_FIX)


AttentionInterface.register(NAME, traced_attention)
