"""A checkpoint's weights into a model, a slice at a time and straight to its device: what one rank needs, no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from innerq_export.artifacts import Checkpoint, ModelShape, TensorRef
from innerq_export.errors import CheckpointError, ConfigError

COLUMN, ROW = "colwise", "rowwise"
_WHOLE = ("replicated", "colwise_gather_output", "rowwise_split_input")
_AXIS = {COLUMN: 0, ROW: 1}


def load_weights(
    model: nn.Module,
    checkpoint: Checkpoint,
    styles: Mapping[str, str] | None = None,
    rank: int = 0,
    ranks: int = 1,
    factors: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Copy every parameter of `model` from the checkpoint, cast to the parameter's dtype.

    `factors`: by name of a parameter, what each row of the whole one is multiplied by first (fp64 [rows]).
    `styles`: for the modules that are split over `ranks`, "colwise" (rows of the weight, outputs) or "rowwise"
    (columns, inputs); such a parameter of `model` has the size of its part. Raises CheckpointError for a tensor that
    is missing or of another shape.
    """
    styles = styles or {}
    with ExitStack() as stack, torch.no_grad():
        files: dict[Path, Any] = {}
        for name, parameter in model.named_parameters():
            ref = _find(checkpoint, name)
            if ref.file not in files:
                files[ref.file] = stack.enter_context(safe_open(ref.file, "pt", device=str(parameter.device)))
            where = _slice_of(name, ref.shape, styles, rank, ranks)
            part = files[ref.file].get_slice(ref.name)[where]
            _check_shape(ref, part.shape, parameter.shape)
            if factors and name in factors:
                part = _scaled(part, factors[name][where[0]])
            added_once = name.endswith(".bias") and styles.get(name.rpartition(".")[0]) == ROW
            parameter.zero_() if rank and added_once else parameter.copy_(part)


def check_ranks(shape: ModelShape, ranks: int) -> None:
    """Raise ConfigError unless `ranks` processes can share the heads."""
    if shape.heads % ranks or shape.kv_heads % ranks:
        raise ConfigError(
            f"--tp {ranks} does not divide the heads",
            expected="a divisor of query and KV heads",
            got=f"{shape.heads} query heads, {shape.kv_heads} KV heads",
            fix="choose another --tp",
        )


def styles_of(model: Any) -> dict[str, str]:
    """Return for every module of a transformers model that ranks share "colwise" or "rowwise", after its own plan.

    What lies outside the layers (embedding, head) is whole on every rank, whatever the plan says. Raises ConfigError
    for a model whose attention cannot be split by KV heads.
    """
    plan = {
        f"{model.base_model_prefix}.{name}": style for name, style in (model.config.base_model_tp_plan or {}).items()
    }
    wildcards = {name: _wildcard(name) for name, _ in model.named_modules()}
    styles = {name: plan.get(wildcard, "") for name, wildcard in wildcards.items() if "*" in wildcard}
    keys = [style for name, style in styles.items() if name.endswith("k_proj")]
    if not keys or any(style != COLUMN for style in keys):
        raise ConfigError(
            f"{type(model).__name__} cannot be split by KV heads",
            expected=f"'k_proj' as '{COLUMN}' in transformers' plan of this model",
            got=", ".join(sorted(set(keys))) or "no such module",
            fix="run it on one card",
        )
    for name, style in styles.items():
        if style not in ("", COLUMN, ROW) and not style.startswith(_WHOLE):
            raise ConfigError(f"{name} cannot be split", expected=f"{COLUMN} or {ROW}", got=style, fix="leave out --tp")
    return {name: style for name, style in styles.items() if style in (COLUMN, ROW)}


def _wildcard(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def _find(checkpoint: Checkpoint, name: str) -> TensorRef:
    tied = {"lm_head.weight": "model.embed_tokens.weight", "model.embed_tokens.weight": "lm_head.weight"}
    ref = checkpoint.tensors.get(name) or checkpoint.tensors.get(tied.get(name, ""))
    if ref is None:
        shown = ", ".join(sorted(checkpoint.tensors)[:5])
        raise CheckpointError(
            f"{checkpoint.folder}: tensor '{name}' is missing", got=f"{shown}, ...", fix="download it again"
        )
    return ref


def _scaled(part: Tensor, factor_R: np.ndarray) -> Tensor:
    factor = torch.from_numpy(factor_R).to(part.device).view(-1, *[1] * (part.dim() - 1))
    return part.double() * factor


def _check_shape(ref: TensorRef, got: Sequence[int], expected: Sequence[int]) -> None:
    if tuple(got) != tuple(expected):
        fix = "config.json and weights are of different models"
        raise CheckpointError(f"tensor '{ref.name}' has another shape", expected=expected, got=got, fix=fix)


def _slice_of(name: str, shape: tuple[int, ...], styles: Mapping[str, str], rank: int, ranks: int) -> tuple[slice, ...]:
    """Return this rank's part: rows for colwise weights and biases, columns for rowwise weights."""
    where = [slice(None)] * len(shape)
    axis = _AXIS.get(styles.get(name.rpartition(".")[0], ""))
    if axis is not None and axis < len(shape):
        size = shape[axis] // ranks
        where[axis] = slice(rank * size, (rank + 1) * size)
    return tuple(where)
