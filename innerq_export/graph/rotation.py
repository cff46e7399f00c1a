"""Which channels RoPE mixes, found by rotating unit vectors with the family's own function."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from innerq_export.errors import CheckpointError

_FUNCTION = "apply_rotary_pos_emb"


def attention_modules(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """Yield (name, module) of every layer's self-attention, in the order of the layers."""
    for name, module in model.named_modules():
        if hasattr(module, "layer_idx") and (hasattr(module, "q_proj") or hasattr(module, "qkv_proj")):
            yield name, module


def mixed_channels(model: PreTrainedModel, head_dim: int) -> torch.Tensor:
    """Return bool [D, D]: whether channel d of a rotated key depends on channel c of the key before RoPE.

    A factor a channel commutes with RoPE if, and only if, all channels that are mixed share it. Raises CheckpointError
    where the family keeps its rotation elsewhere than in `apply_rotary_pos_emb`.
    """
    _, attention = next(iter(attention_modules(model)), ("", None))
    rotate = getattr(sys.modules[type(attention).__module__], _FUNCTION, None)
    embed = getattr(model.get_decoder(), "rotary_emb", None)
    if rotate is None or embed is None:
        raise CheckpointError(
            f"key normalisation cannot be folded into {type(model).__name__}",
            expected=f"a rotation in its {_FUNCTION}",
            fix="--key-norm prefill",
        )
    units_11DD = torch.eye(head_dim)[None, None]
    position_1D = torch.ones(1, head_dim, dtype=torch.int64)
    cos, sin = embed(units_11DD[0], position_1D)
    turned_11DD, _ = rotate(units_11DD, units_11DD, cos, sin)
    return (turned_11DD[0, 0] != 0).T
