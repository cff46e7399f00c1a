"""Folding of key normalisation: where a layer's lambda goes into its weights (SPEC section 5).

K / lambda and Q * lambda leave q . k what it is, before and after RoPE, if the channels that RoPE mixes share lambda.
With q/k norms the factors go into the norms' weights, which come last before RoPE, otherwise into the rows and biases
of the projections. Query head h has the lambda of its KV head h // (Hq / Hkv).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from innerq_export.artifacts import ModelShape
from innerq_export.errors import CheckpointError, ConfigError
from innerq_export.graph.rotation import attention_modules, mixed_channels


def lambda_of(model: PreTrainedModel, shape: ModelShape, peak_LHkvD: torch.Tensor) -> np.ndarray:
    """Return the lambda, fp16 [L, Hkv, D], for keys whose largest magnitudes per channel are `peak_LHkvD`.

    fp16(sqrt(peak)), 1 where that is 0; the largest of all channels, and KV heads, that must share one.
    """
    check_foldable(model)
    peak = torch.stack([peak_LHkvD[..., mixed].amax(-1) for mixed in mixed_channels(model, shape.head_dim)], dim=-1)
    for layer, (_, module) in enumerate(attention_modules(model)):
        if _shares_norm(module, shape):
            peak[layer] = peak[layer].amax(0)
    found = peak.double().sqrt().to(torch.float32).to(torch.float16)
    return torch.where(found == 0, 1.0, found).numpy()


def fold_factors(model: PreTrainedModel, shape: ModelShape, lambda_LHkvD: np.ndarray) -> dict[str, np.ndarray]:
    """Return, by state-dict name of a parameter, the factors of its rows (fp64; see ScaledTensor).

    Raises ConfigError for a lambda that differs where it must not, CheckpointError for a model that cannot be folded.
    """
    check_foldable(model)
    _check_shared(model, shape, lambda_LHkvD)
    factors: dict[str, np.ndarray] = {}
    for layer, (name, module) in enumerate(attention_modules(model)):
        key_HkvD = 1.0 / lambda_LHkvD[layer].astype(np.float64)
        query_HqD = np.repeat(lambda_LHkvD[layer].astype(np.float64), shape.heads // shape.kv_heads, axis=0)
        for part, factor_R in _parts(module, query_HqD, key_HkvD):
            for parameter, _ in getattr(module, part).named_parameters():
                factors[f"{name}.{part}.{parameter}"] = factor_R
    return factors


def check_foldable(model: PreTrainedModel) -> None:
    """Raise CheckpointError, by name, for what stands between the projections and RoPE and takes no factor."""
    if getattr(model.config, "clip_qkv", None) is not None:
        raise _unfit("clips its queries and keys (clip_qkv)", f"clip_qkv {model.config.clip_qkv}")
    for name, module in attention_modules(model):
        if _has_norms(module) and not _is_product(module.k_norm):
            raise _unfit("adds to the weights of its key norms before it multiplies by them", f"{name}.k_norm")


def _unfit(what: str, got: str) -> CheckpointError:
    return CheckpointError(
        f"key normalisation cannot be folded into a model that {what}", got=got, fix="--key-norm prefill"
    )


def _is_product(norm: Any) -> bool:
    """Whether a norm multiplies by its weight: then nothing is left of its input where the weight is 0."""
    bare, shape = copy.copy(norm), norm.weight.shape
    bare._parameters = {name: torch.nn.Parameter(torch.zeros(shape)) for name in norm._parameters}
    with torch.no_grad():
        return not bare.forward(torch.linspace(1, 2, shape.numel()).reshape(shape)).any()


def _parts(module: Any, query_HqD: np.ndarray, key_HkvD: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the submodule and the factors of its rows: of q/k norms, of one fused projection, or of two."""
    query, key = query_HqD.reshape(-1), key_HkvD.reshape(-1)
    if _has_norms(module):
        sizes = (module.q_norm.weight.numel(), module.k_norm.weight.numel())
        yield from zip(("q_norm", "k_norm"), (query[: sizes[0]], key[: sizes[1]]), strict=True)
    elif hasattr(module, "qkv_proj"):
        yield "qkv_proj", np.concatenate([query, key, np.ones_like(key)])
    else:
        yield from (("q_proj", query), ("k_proj", key))


def _has_norms(module: Any) -> bool:
    return getattr(module, "k_norm", None) is not None


def _shares_norm(module: Any, shape: ModelShape) -> bool:
    """Whether one norm weight of D channels serves all heads, so that they share lambda."""
    return _has_norms(module) and module.k_norm.weight.numel() == shape.head_dim


def _check_shared(model: PreTrainedModel, shape: ModelShape, lambda_LHkvD: np.ndarray) -> None:
    mixed_DD = mixed_channels(model, shape.head_dim).numpy()
    for layer, (_, module) in enumerate(attention_modules(model)):
        ours_HkvD = lambda_LHkvD[layer]
        apart = (ours_HkvD[:, :, None] != ours_HkvD[:, None, :]) & mixed_DD
        heads = _shares_norm(module, shape) and bool((ours_HkvD != ours_HkvD[0]).any())
        if apart.any() or heads:
            raise ConfigError(
                f"lambda of layer {layer} cannot be folded",
                expected="one value for all KV heads, whose norm has one weight"
                if heads
                else "one value for channels that RoPE rotates together",
                got=f"channels {np.argwhere(apart)[0][1:].tolist()} differ" if apart.any() else "different values",
                fix="calibrate it with this version: innerq-export calibrate MODEL --text FILE -o KEY_NORM",
            )
