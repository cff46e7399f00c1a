"""Weights that a plan takes as inputs: read from where the engine folder's ONNX model says that they lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from innerq_export.engine.stripped import location_of
from innerq_export.errors import OutOfMemoryError, UserError
from innerq_export.runtime.plan import PlanTensor


def weights_on(device: torch.device, model: Path, tensors: Iterable[PlanTensor]) -> dict[str, Tensor]:
    """Return on `device`, by name, those of `tensors` that are external initializers of the ONNX file `model`.

    One at a time is read, and only through the page cache. Raises UserError for bytes that are not in the folder of
    `model`, OutOfMemoryError where the card is too small.
    """
    files = dict(_places(model))
    try:
        return {t.name: _read(*files[t.name], t, device) for t in tensors if t.is_input and t.name in files}
    except torch.OutOfMemoryError as error:
        raise OutOfMemoryError(
            "the card has too little memory for the weights", got=error, fix="a card with more memory"
        ) from error


def _places(model: Path) -> Iterator[tuple[str, tuple[Path, int]]]:
    for tensor in onnx.load(model, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            name, offset = location_of(tensor)
            yield tensor.name, (model.parent / Path(name).name, offset)


def _read(file: Path, offset: int, tensor: PlanTensor, device: torch.device) -> Tensor:
    dtype = getattr(torch, tensor.dtype)
    result = torch.empty(tensor.shape, dtype=dtype, device=device)
    try:
        content = np.memmap(file, np.uint8, "c", offset, (result.nbytes,))
    except (OSError, ValueError) as error:
        raise UserError(
            f"weight '{tensor.name}' cannot be read",
            expected=f"{result.nbytes} bytes at {offset} of {file}",
            got=error,
            fix="build the engine again",
        ) from error
    result.view(-1).view(torch.uint8).copy_(torch.from_numpy(content))
    return result
