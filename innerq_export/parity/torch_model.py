"""The Hugging Face model in fp32 PyTorch: unquantised, or with its attention given from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from innerq_export.artifacts import KeyNorm
from innerq_export.parity.folded import Attention, folded

NAME = "innerq_parity"
_KEYWORD = "innerq_attention"


class TorchModel:
    """The checkpoint with its weights rounded to `dtype` (that of the engine), computed in fp32 on the CPU.

    `key_norm`: what was folded into the engine's weights, and is shown to the attention that is given from outside.
    """

    def __init__(self, folder: Path, dtype: str, key_norm: KeyNorm | None = None):
        from transformers import AutoModelForCausalLM

        with _no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation=NAME, local_files_only=True
            )
        self._model, self._key_norm = model.float().eval(), key_norm

    @torch.no_grad()
    def unquantised(self, ids_T: Tensor) -> Tensor:
        """Return the logits [T, V] of one sequence with plain attention."""
        return self._model(input_ids=ids_T[None], use_cache=False).logits[0]

    @torch.no_grad()
    def with_attention(self, ids_BS: Tensor, position_BS: Tensor, attention: Attention) -> Tensor:
        """Return the logits [B, S, V] when `attention` answers every layer; it is given keys after RoPE."""
        attention = folded(attention, self._key_norm) if self._key_norm else attention
        extra: dict[str, Any] = {_KEYWORD: attention}
        return self._model(input_ids=ids_BS, position_ids=position_BS, use_cache=False, **extra).logits


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **others: Any
) -> tuple[Tensor, None]:
    given: Attention | None = others.pop(_KEYWORD, None)
    if given is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **others)
    return given(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


AttentionInterface.register(NAME, _attention)
