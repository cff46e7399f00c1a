"""The attention function "innerq" of transformers' registry, and what the cache hands it."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from innerq_export.errors import ConfigError
from innerq_export.integrations.hf_mask import LazyMask

NAME = "innerq"
_REFUSED = {"softcap": "soft-capped scores", "s_aux": "attention sinks of its own", "position_bias": "a position bias"}


class Attending(Protocol):
    """A layer of an InnerQCache."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: object, scaling: float | None) -> Tensor:
        """Append the new tokens and return the attention [B, Hq, S, D]."""

    def get_seq_length(self) -> int:
        """Return the columns before the call."""


class Handed:
    """New keys or values between `update` and `innerq_attention`; whoever else touches them is told what is wrong."""

    def __init__(self, layer: Attending, tensor: Tensor):
        self.layer, self.tensor = layer, tensor

    def __getattr__(self, name: str) -> NoReturn:
        raise _wrong_attention()

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> NoReturn:
        raise _wrong_attention()


def innerq_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Any,
    value: Any,
    attention_mask: object,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of transformers' registry: [B, S, Hq, D] from an InnerQCache, else what "sdpa" would give."""
    if not isinstance(key, Handed):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mask: Any = attention_mask.dense() if isinstance(attention_mask, LazyMask) else attention_mask
        return sdpa_attention_forward(module, query, key, value, mask, dropout=dropout, scaling=scaling, **others)
    _check_features(dropout, others, key.layer.get_seq_length() + query.shape[2])
    out = key.layer.attend(query, key.tensor, value.tensor, attention_mask, scaling)
    return out.transpose(1, 2), None


def no_config(given: Any) -> ConfigError:
    """Return the error for what is given in the place of a model's config."""
    got = type(given).__name__
    return ConfigError("InnerQCache: 'config'", expected="a config of transformers", got=got, fix="give model.config")


def use_innerq(config: Any) -> None:
    """Register the attention function and name it in a model's config; ConfigError if that is no config."""
    if not hasattr(config, "_attn_implementation"):
        raise no_config(config)
    AttentionInterface.register(NAME, innerq_attention)
    AttentionMaskInterface.register(NAME, LazyMask)
    config._attn_implementation = NAME


def padding_of(mask: object) -> Tensor | None:
    """Return the padding [B, T] of a mask that came through LazyMask; any other mask is refused."""
    if isinstance(mask, LazyMask):
        return mask.padding_BT
    if mask is not None:
        fix = "pass the two-dimensional mask of the tokenizer, or none"
        raise ConfigError("attention_mask of an InnerQCache", expected="[B, T]", got=type(mask).__name__, fix=fix)
    return None


def _check_features(dropout: float, others: dict[str, Any], tokens: int) -> None:
    """Raise ConfigError for what the kernels do not compute."""
    for name, feature in _REFUSED.items():
        if others.get(name) is not None:
            raise ConfigError(f"InnerQCache: this model uses {feature}", fix="use transformers' DynamicCache")
    if dropout:
        raise ConfigError("InnerQCache: attention dropout", expected="inference", fix="call model.eval()")
    window = others.get("sliding_window")
    if window is not None and tokens > window:
        fix = "keep prompt and answer within the window, or use transformers' DynamicCache"
        expected = f"at most {window} tokens"
        raise ConfigError("InnerQCache: sliding-window attention", expected=expected, got=tokens, fix=fix)


def _wrong_attention() -> ConfigError:
    return ConfigError(
        "an InnerQCache was given to a model whose attention implementation is not 'innerq'",
        expected="InnerQCache(model.config, ...) with the config object of that very model",
        fix='model.set_attn_implementation("innerq")',
    )
