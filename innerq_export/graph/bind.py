"""Weights of a traced graph bound to the checkpoint: by reference where dtypes agree, else by streamed cast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from innerq_export.artifacts import Checkpoint, TensorRef
from innerq_export.errors import CheckpointError
from innerq_export.graph.cast import SOURCE_DTYPES, TARGET_DTYPES, CastTensor
from innerq_export.graph.reference import REFERENCED_DTYPES, ReferencedTensor, reference

_SHOWN = 5


def find_tensors(
    checkpoint: Checkpoint, aliases: Mapping[str, Sequence[str]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, TensorRef]:
    """Return the checkpoint's tensor for every name that the model needs.

    `aliases`: all names of each (tied) tensor; `shapes`: what the model expects. Raises CheckpointError that lists what
    is missing, or names the tensor of a wrong shape or dtype.
    """
    found = {}
    for name, names in aliases.items():
        ref = next((checkpoint.tensors[alias] for alias in names if alias in checkpoint.tensors), None)
        if ref is not None:
            _check(ref, shapes[name])
            found[name] = ref
    missing = sorted(aliases.keys() - found.keys())
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise CheckpointError(
            f"{checkpoint.folder}: {len(missing)} tensors are missing",
            expected=", ".join(missing[:_SHOWN]) + more,
            got=f"{len(checkpoint.tensors)} tensors: {', '.join(sorted(checkpoint.tensors)[:_SHOWN])}, ...",
            fix="save the whole model (with its head) with save_pretrained",
        )
    return found


def bind_weights(model: ir.Model, tensors: Mapping[str, TensorRef]) -> None:
    """Turn the weight inputs of `model` into initializers that refer to `tensors`. In place; reads no weight."""
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in tensors]:
        graph.inputs.remove(value)
        if value.uses():
            ref = tensors[str(value.name)]
            value.name, value.const_value = ref.name, _tensor(ref, value.dtype)
            graph.register_initializer(value)


def _check(ref: TensorRef, shape: Sequence[int]) -> None:
    if ref.shape != tuple(shape):
        fix = "config.json and weights are of different models"
        raise CheckpointError(f"tensor '{ref.name}' has another shape", expected=tuple(shape), got=ref.shape, fix=fix)
    if ref.dtype not in SOURCE_DTYPES:
        expected = f"one of {', '.join(SOURCE_DTYPES)}"
        fix = "name the unquantised checkpoint"
        raise CheckpointError(
            f"tensor '{ref.name}' has an unsupported dtype", expected=expected, got=ref.dtype, fix=fix
        )


def _tensor(ref: TensorRef, dtype: ir.DataType | None) -> ReferencedTensor | CastTensor:
    if dtype not in TARGET_DTYPES:
        raise CheckpointError(f"tensor '{ref.name}' cannot become {dtype}", got=ref.dtype)
    return reference(ref) if dtype == REFERENCED_DTYPES.get(ref.dtype) else CastTensor(ref, dtype)
