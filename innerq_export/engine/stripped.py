"""A network without its weights: they are inputs, to be bound to the very bytes that the engine folder has anyway.

A builder refits a stripped plan, and makes one, only where it finds a card. With weights as inputs a plan is small
wherever it was built, the builder reads no weight, and what the engine computes is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto


def strip_weights(model: Path, first: Path) -> Path | None:
    """Write the ONNX file `model` with weights as inputs beside it, and return where; None if there is none to take.

    Taken are the matrices (two dims or more) that the ONNX file `first` has too: by the same name, in the same bytes of
    the same file. What differs between the two, and small weights, stay constants.
    """
    network = _load(model)
    shared = set(_matrices(network, model.parent)) & set(_matrices(_load(first), first.parent))
    names = {name for name, *_ in shared}
    if not names:
        return None
    weights = list(network.graph.initializer)
    del network.graph.initializer[:]
    for tensor in weights:
        if tensor.name in names:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            network.graph.input.append(value)
        else:
            network.graph.initializer.append(tensor)
    path = model.with_name(f".stripped-{model.name}")
    path.write_bytes(network.SerializeToString())
    return path


def location_of(tensor: TensorProto) -> tuple[str, int]:
    """Return in which file of the model's folder, and from which byte on, an external tensor lies."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0))


def _load(path: Path) -> onnx.ModelProto:
    return onnx.load(path, load_external_data=False)


def _matrices(model: onnx.ModelProto, folder: Path) -> Iterator[tuple[object, ...]]:
    """Yield name, file, offset, type and dims of every external matrix."""
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and len(tensor.dims) > 1:
            name, offset = location_of(tensor)
            status = (folder / name).stat()
            yield tensor.name, status.st_dev, status.st_ino, offset, tensor.data_type, *tensor.dims
