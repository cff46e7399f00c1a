"""The Hugging Face model in fp32 PyTorch: unquantised, or with its attention given from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_NAME = "innerq_parity"
_KEYWORD = "innerq_attention"
Attention = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
"""(layer, query_BHqSD, key_BHkvSD, value_BHkvSD, scale) -> output_BHqSD; keys after RoPE."""


class TorchModel:
    """The checkpoint with its weights rounded to `dtype` (that of the engine), computed in fp32 on the CPU."""

    def __init__(self, folder: Path, dtype: str):
        from transformers import AttentionInterface, AutoModelForCausalLM

        AttentionInterface.register(_NAME, _attention)
        with _no_progress_bar():
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation=_NAME, local_files_only=True
            )
        self._model = model.float().eval()

    @torch.no_grad()
    def unquantised(self, ids_T: Tensor) -> Tensor:
        """Return the logits [T, V] of one sequence with plain attention."""
        return self._model(input_ids=ids_T[None], use_cache=False).logits[0]

    @torch.no_grad()
    def with_attention(self, ids_BS: Tensor, position_BS: Tensor, attention: Attention) -> Tensor:
        """Return the logits [B, S, V] when `attention` answers every layer."""
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
