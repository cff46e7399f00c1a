"""The Hugging Face model without its weights: parameters of full shape and no memory, buffers with real values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from innerq_export.graph.attention import NAME as ATTENTION
from innerq_export.graph.experts import NAME as EXPERTS
from innerq_export.graph.experts import separate_experts, stored_names
from innerq_export.graph.from_config import building_a_model, parsed_config


def build_skeleton(config: Mapping[str, Any], dtype: torch.dtype, attention: str = ATTENTION) -> PreTrainedModel:
    """Return the model of `config` in `dtype`, each parameter one expanded zero, in evaluation mode.

    `attention`: the name of a function in transformers' attention interface. Only classes of the installed transformers
    are used, never code of the checkpoint. Raises CheckpointError.
    """
    with building_a_model(), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(parsed_config(config), dtype=dtype, attn_implementation=attention)
        model.config._experts_implementation = EXPERTS
        separate_experts(model)
    _materialise_buffers(model)
    _placehold_parameters(model)
    return model.eval().requires_grad_(False)


def parameter_aliases(model: torch.nn.Module) -> dict[str, tuple[str, ...]]:
    """Return, for every name of the state dict, all names of the same tensor: those of tied parameters, of experts."""
    names_of: dict[int, list[str]] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names_of.setdefault(id(tensor), []).append(name)
    return {name: (*names_of[id(tensor)], *stored_names(name)) for name, tensor in state.items()}


def _materialise_buffers(model: PreTrainedModel) -> None:
    """Give buffers (RoPE frequencies, embedding scales) the values that from_pretrained would give them."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")
        if module._buffers:
            model._init_weights(module)


def _placehold_parameters(model: PreTrainedModel) -> None:
    placeholders: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                zero = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                placeholder = torch.nn.Parameter(zero, requires_grad=False)
                module._parameters[name] = placeholders.setdefault(id(parameter), placeholder)
