"""The Hugging Face model whose cache is tried: prompt once in full precision, then many tokens under any plan.

Weights as stored, arithmetic in fp32, keys and values rounded to fp16 as a cache holds them: so what differs between
two runs is the cache alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.eval.attention import attend_decoding, attend_in_full
from innerq_export.reference.scheme import Scheme

_NAME = "innerq_eval"
_KEYWORD = "innerq_eval_attention"
Answer = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]
LayerSchemes = Sequence[Scheme | None]
"""What each layer's cache does; None: full precision."""


@dataclass(frozen=True)
class Prompt:
    """Tokens [B, P] that were one call, and the keys and values [B, Hkv, P, D] that they left in each layer."""

    ids_BP: Tensor
    keys: list[Tensor]
    values: list[Tensor]


@dataclass(frozen=True)
class Decoded:
    """Logits [B, N, V] after each decoded token, and each layer's signal to noise in dB (empty without schemes)."""

    logits_BNV: Tensor
    attention_db: list[float]


class Decoder:
    """A causal language model of `folder` on `device`."""

    def __init__(self, folder: Path, device: str):
        from transformers import AttentionInterface, AutoModelForCausalLM
        from transformers.utils import logging

        AttentionInterface.register(_NAME, _attention)
        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", attn_implementation=_NAME, local_files_only=True
        )
        self._model = model.float().eval().to(device)
        self.device = torch.device(device)
        config = model.config
        self.layers: int = config.num_hidden_layers
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        heads: int = config.num_attention_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.context: int = config.max_position_embeddings

    @torch.inference_mode()
    def read(self, ids_BP: Tensor) -> Prompt:
        """Return the prompt's keys and values."""
        ids_BP = ids_BP.to(self.device)
        keys, values = [], []

        def answer(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            key, value = _stored(key), _stored(value)
            keys.append(key)
            values.append(value)
            return attend_in_full(query, key, value, scale)

        if ids_BP.shape[1]:
            self._forward(ids_BP, 0, answer, 1)
        return Prompt(ids_BP, keys, values)

    @torch.inference_mode()
    def decode(self, prompt: Prompt, ids_BN: Tensor, schemes: LayerSchemes, measure: bool = False) -> Decoded:
        """Feed N tokens as decoding would, one after the other, over the prompt. `measure`: also layers' dB.

        A layer's dB: attention output over its scheme's cache against the same queries, keys and values in full
        precision, of the first sequence, all queries together.
        """
        levels: list[float] = []

        def answer(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            key, value = _stored(key), _stored(value)
            if prompt.keys:
                key = torch.cat([prompt.keys[layer], key], dim=2)
                value = torch.cat([prompt.values[layer], value], dim=2)
            output = attend_decoding(schemes[layer], query, key, value, scale)
            if measure:
                levels.append(_decibels(attend_decoding(None, query[:1], key[:1], value[:1], scale), output[:1]))
            return output

        past, new = prompt.ids_BP.shape[1], ids_BN.shape[1]
        return Decoded(self._forward(ids_BN.to(self.device), past, answer, new), levels)

    def _forward(self, ids_BS: Tensor, past: int, answer: Answer, keep: int) -> Tensor:
        position_1S = torch.arange(past, past + ids_BS.shape[1], device=self.device)[None]
        extra: dict[str, Any] = {_KEYWORD: answer}
        try:
            return self._model(
                input_ids=ids_BS, position_ids=position_1S, use_cache=False, logits_to_keep=keep, **extra
            ).logits
        except torch.OutOfMemoryError as error:
            raise UserError(
                "eval: the card's memory is full",
                got=str(error).splitlines()[0],
                fix="use fewer --sequences or a shorter --tokens",
            ) from error


def pick_device(wanted: str) -> str:
    """Return 'cuda' or 'cpu' for auto, cuda or cpu. Raises EnvironmentMismatchError."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EnvironmentMismatchError(
            "--device cuda: PyTorch sees no card", fix="use --device cpu, or mend the driver"
        )
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wanted


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float, **others: Any
) -> tuple[Tensor, None]:
    answer: Answer = others[_KEYWORD]
    return answer(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


def _stored(x: Tensor) -> Tensor:
    """Return x as an fp16 cache holds it."""
    return x.half().float()


def _decibels(expected: Tensor, got: Tensor) -> float:
    signal, noise = expected.double().square().sum(), (got - expected).double().square().sum()
    return float(10 * torch.log10(signal / noise)) if noise > 0 else float("inf")
