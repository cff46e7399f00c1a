"""Weights of a traced graph bound to the checkpoint: by reference where nothing changes, else by streamed cast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from innerq_export.artifacts import Checkpoint, TensorRef
from innerq_export.errors import CheckpointError
from innerq_export.graph.cast import SOURCE_DTYPES, TARGET_DTYPES, CastTensor
from innerq_export.graph.reference import REFERENCED_DTYPES, ReferencedTensor, reference
from innerq_export.graph.scale import ScaledTensor

_SHOWN = 5
_COMPARED = 1 << 20


def find_tensors(
    checkpoint: Checkpoint, aliases: Mapping[str, Sequence[str]], shapes: Mapping[str, Sequence[int]]
) -> dict[str, TensorRef]:
    """Return the checkpoint's tensor for every name that the model needs.

    `aliases`: all names of each (tied) tensor; `shapes`: what the model expects. Raises CheckpointError that lists what
    is missing, or names the tensor of a wrong shape or dtype.
    """
    found = {}
    for name, names in aliases.items():
        present = [checkpoint.tensors[alias] for alias in names if alias in checkpoint.tensors]
        if present:
            _check(present[0], shapes[name])
            _check_tie(present)
            found[name] = present[0]
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


def bind_weights(
    model: ir.Model, tensors: Mapping[str, TensorRef], factors: Mapping[str, np.ndarray] | None = None
) -> None:
    """Turn the weight inputs of `model` into initializers that refer to `tensors`. In place; reads no weight.

    `factors`: by what the rows of some of them are multiplied when they are read (see ScaledTensor).
    """
    graph = model.graph
    for value in [value for value in graph.inputs if value.name in tensors]:
        graph.inputs.remove(value)
        if value.uses():
            ref, factor_R = tensors[str(value.name)], (factors or {}).get(str(value.name))
            value.name, value.const_value = ref.name, _tensor(ref, value.dtype, factor_R)
            graph.register_initializer(value)


def _check_tie(refs: Sequence[TensorRef]) -> None:
    for other in refs[1:]:
        if not _same_bytes(refs[0], other):
            raise CheckpointError(
                f"config.json ties '{refs[0].name}' and '{other.name}', but the checkpoint has two different tensors",
                expected="one of them, or two equal ones",
                fix='set "tie_word_embeddings": false in config.json',
            )


def _same_bytes(one: TensorRef, other: TensorRef) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.offset)
        second.seek(other.offset)
        parts = (min(_COMPARED, one.nbytes - start) for start in range(0, one.nbytes, _COMPARED))
        return all(first.read(part) == second.read(part) for part in parts)


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


def _tensor(ref: TensorRef, dtype: ir.DataType | None, factor_R: np.ndarray | None) -> ReferencedTensor | CastTensor:
    if dtype not in TARGET_DTYPES:
        raise CheckpointError(
            f"tensor '{ref.name}' cannot become {dtype}", got=ref.dtype, fix="--dtype float16 or float32"
        )
    if factor_R is not None:
        return ScaledTensor(ref, dtype, factor_R)
    return reference(ref) if dtype == REFERENCED_DTYPES.get(ref.dtype) else CastTensor(ref, dtype)
