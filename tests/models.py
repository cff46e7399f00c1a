"""Tiny random Hugging Face checkpoints for everyone's tests, made by save_pretrained as a user's would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TINY = {
    "vocab_size": 264,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


def tiny_llama(
    folder: Path, *, dtype: str = "float16", shard_size: str | None = None, seed: int = 0, **config: Any
) -> Path:
    """Write a LlamaForCausalLM of the sizes TINY | `config` and return `folder`; see `tiny_model`."""
    return tiny_model(folder, "llama", dtype=dtype, shard_size=shard_size, seed=seed, **config)


def tiny_model(
    folder: Path, family: str, *, dtype: str = "float16", shard_size: str | None = None, seed: int = 0, **config: Any
) -> Path:
    """Write a causal model of the transformers model type `family`, with its tokenizer, and return `folder`.

    `shard_size` such as '100KB' splits the weights. Query and key weights are large enough for peaked attention.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **TINY | config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(*_distribution(name, parameter))
    limit = {"max_shard_size": shard_size} if shard_size else {}
    model.to(getattr(torch, dtype)).save_pretrained(folder, **limit)
    _save_tokenizer(folder)
    return folder


def _distribution(name: str, parameter: Any) -> tuple[float, float]:
    """Return mean and deviation: norms near 1, biases small, queries and keys wide, the rest of unit gain."""
    if parameter.ndim == 1:
        return (0.0, 0.1) if name.endswith("bias") else (1.0, 0.1)
    if "embed" in name or "lm_head" in name:
        return 0.0, 0.25
    gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
    return 0.0, gain * parameter.shape[-1] ** -0.5


def _save_tokenizer(folder: Path) -> None:
    from innerq_export.checkpoint.demo import write_tokenizer

    write_tokenizer(folder)
