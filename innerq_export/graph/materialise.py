"""Weights that need a cast, written once, so that several lowerings of one graph share the file by hard links."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from innerq_export.artifacts import Graph
from innerq_export.progress import Progress, Silent, Step

if TYPE_CHECKING:
    from innerq_export.graph.cast import CastTensor

ALIGNMENT = 64


def write_casts(graph: Graph, file: Path, progress: Progress | None = None) -> int:
    """Write every weight of `graph` that is cast when read into the new `file`, and let the graph refer to that file.

    Returns the bytes written; where nothing is cast there is no file. Tensors start at multiples of 64. After an error
    (CheckpointError: a value does not fit; OSError: the disk is full) there is no file and the graph is unchanged.
    """
    from innerq_export.graph.cast import CastTensor
    from innerq_export.graph.reference import written

    initializers = graph.model.graph.initializers.values()
    casts = {value: value.const_value for value in initializers if isinstance(value.const_value, CastTensor)}
    if not casts:
        return 0
    with (progress or Silent()).stage("casting weights") as step, file.open("xb") as stream:
        try:
            starts = [_write(tensor, stream, step, number / len(casts)) for number, tensor in enumerate(casts.values())]
        except BaseException:
            file.unlink()
            raise
        size = stream.tell()
    for (value, tensor), start in zip(casts.items(), starts, strict=True):
        value.const_value = written(tensor, file, start)
    return size


def _write(tensor: CastTensor, stream: BinaryIO, step: Step, done: float) -> int:
    """Append a tensor at the next multiple of ALIGNMENT; return where it starts."""
    step.advance(done, str(tensor.name))
    stream.write(bytes(-stream.tell() % ALIGNMENT))
    start = stream.tell()
    tensor.tofile(stream)
    return start
