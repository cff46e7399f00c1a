"""The model of bench decode: transformers' own classes in a real shape, weights random and made on the device."""

from __future__ import annotations

from typing import Any

import torch

from innerq_export.artifacts import ModelShape
from innerq_export.runtime.torch_model import compile_layers, empty_model

LLAMA_3_1_8B: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
SMALL = LLAMA_3_1_8B | {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 264,
}
CONFIGS = {"llama-3.1-8b": LLAMA_3_1_8B, "small": SMALL}


def random_model(
    config: dict[str, Any], dtype: torch.dtype, device: torch.device, *, compiled: bool
) -> tuple[Any, ModelShape]:
    """Return a model of `config` with normal weights of deviation 0.02, norms 1, and its shape."""
    torch.manual_seed(0)
    model = empty_model(config, dtype, device)
    for parameter in model.parameters():
        parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(0.0, 0.02)
    if compiled:
        compile_layers(model)
    return model, ModelShape.from_config(config)
