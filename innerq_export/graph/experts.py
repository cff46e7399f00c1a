"""Mixtures of experts: each expert's weights as the checkpoint stores them, and every expert computed for every token.

transformers stacks the weights of a layer's experts when it loads them, and picks experts by the values of the router:
a stack cannot refer to the checkpoint's bytes, and such picking cannot be traced. So here each expert is a module of
its own, and the router's weights, zero for experts that were not picked, multiply what all of them say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from innerq_export.errors import CheckpointError

NAME = "innerq_export_every_expert"
_STACKS = ("gate_up_proj", "down_proj")
_MIXTRAL = ((".mlp.", ".block_sparse_moe."), (".gate_proj.", ".w1."), (".up_proj.", ".w3."), (".down_proj.", ".w2."))


def separate_experts(model: nn.Module) -> None:
    """Replace the stacked weights of every experts module [E, out, in] by E modules named 0, 1, ... In place.

    Raises CheckpointError for experts that are more than a gated MLP without biases.
    """
    stacked: list[Any] = [module for module in model.modules() if "gate_up_proj" in module._parameters]
    for module in stacked:
        _check_form(module)
        (count, twice_wide, hidden), dtype = module.gate_up_proj.shape, module.gate_up_proj.dtype
        for name in _STACKS:
            del module._parameters[name]
        for expert in range(count):
            module.add_module(str(expert), _Expert(hidden, twice_wide // 2, dtype))


def stored_names(name: str) -> Iterator[str]:
    """Yield other names under which checkpoints store the parameter `name` of a mixture of experts."""
    if ".mlp.experts." in name or ".mlp.gate." in name:
        for ours, theirs in _MIXTRAL:
            name = name.replace(ours, theirs)
        yield name


class _Expert(nn.Module):
    """One gated MLP: down(act(gate(x)) * up(x)), `act` being its parent's."""

    def __init__(self, hidden: int, wide: int, dtype: torch.dtype) -> None:
        super().__init__()
        form: dict[str, Any] = {"bias": False, "dtype": dtype, "device": "meta"}
        self.gate_proj, self.up_proj = nn.Linear(hidden, wide, **form), nn.Linear(hidden, wide, **form)
        self.down_proj = nn.Linear(wide, hidden, **form)


def _every_expert(self: Any, hidden_TH: Tensor, index_TK: Tensor, weight_TK: Tensor) -> Tensor:
    """Return the sum of all experts' answers [T, H], each times its weight for the token.

    Where that is 0 so is the addend, even if the expert, which was never meant for this token, overflows on it.
    """
    total_TH = torch.zeros_like(hidden_TH)
    for number, expert in self.named_children():
        if isinstance(expert, _Expert):
            weight_T1 = torch.where(index_TK == int(number), weight_TK, 0).sum(-1, keepdim=True)
            said_TH = expert.down_proj(self.act_fn(expert.gate_proj(hidden_TH)) * expert.up_proj(hidden_TH))
            total_TH = total_TH + torch.where(weight_T1 == 0, 0, said_TH * weight_T1).to(total_TH.dtype)
    return total_TH


def _check_form(module: Any) -> None:
    usual = module.has_gate and module.is_concatenated
    if (
        not usual
        or module.has_bias
        or module.is_transposed
        or module.has_post_expert_norm
        or module.gate_up_proj.dim() != 3
    ):
        raise CheckpointError(
            f"{type(module).__name__} has experts of a form that this build does not know",
            expected="gate, up and down projections without biases",
            fix="report it with config.json",
        )


ALL_EXPERTS_FUNCTIONS.register(NAME, _every_expert)
