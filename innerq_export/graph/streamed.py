"""A weightless model that runs: every module's weights are read when it is called, as fp32, and dropped after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from innerq_export.artifacts import TensorRef
from innerq_export.errors import CheckpointError

_PIECE_ITEMS = 1 << 20
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def stream_weights(
    model: torch.nn.Module, tensors: Mapping[str, TensorRef], rounded: torch.dtype = torch.float32
) -> None:
    """Let each module of `model` read its parameters, by state-dict name from `tensors`, while it runs. In place.

    So the model takes the memory of its largest module in fp32, not of all. `rounded`: a dtype that weights are rounded
    to on the way. Calls raise CheckpointError where a file has shrunk.
    """
    for prefix, module in model.named_modules():
        own = {name: f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)}
        if own:
            held = {name: (module._parameters[name], tensors[full]) for name, full in own.items()}
            module.register_forward_pre_hook(_Load(held, rounded))
            module.register_forward_hook(_Drop(held))


class _Load:
    def __init__(self, held: Mapping[str, tuple[Any, TensorRef]], rounded: torch.dtype) -> None:
        self._held, self._rounded = held, rounded

    def __call__(self, module: torch.nn.Module, inputs: Any) -> None:
        for name, (_, ref) in self._held.items():
            module._parameters[name] = torch.nn.Parameter(_read(ref, self._rounded), requires_grad=False)


class _Drop:
    def __init__(self, held: Mapping[str, tuple[Any, TensorRef]]) -> None:
        self._held = held

    def __call__(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        for name, (placeholder, _) in self._held.items():
            module._parameters[name] = placeholder


def _read(ref: TensorRef, rounded: torch.dtype) -> torch.Tensor:
    """Return a tensor as fp32 of values of `rounded`; of the stored bytes only a piece is held beside it."""
    dtype, result = _DTYPES[ref.dtype], torch.empty(ref.shape, dtype=torch.float32)
    with ref.file.open("rb") as stream:
        stream.seek(ref.offset)
        for part in result.view(-1).split(_PIECE_ITEMS):
            raw = np.fromfile(stream, np.uint8, count=part.numel() * dtype.itemsize)
            if raw.size != part.numel() * dtype.itemsize:
                raise CheckpointError(f"{ref.file}: truncated inside tensor '{ref.name}'", fix="download it again")
            part.copy_(torch.from_numpy(raw).view(dtype).to(rounded))
    return result
