"""External data of an ONNX file nobody vouches for: it must lie inside the file's folder and hold what is announced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from innerq_export.checkpoint.header import regular_file_size
from innerq_export.errors import CheckpointError


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield every external tensor of the model: initializers and node attributes, subgraphs and functions included."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        yield from _initializers(graph)
        for node in ir.traversal.RecursiveGraphIterator(graph):
            for attribute in node.attributes.values():
                yield from _tensors_of(attribute)


def check_external(tensor: ir.ExternalTensor, model_file: Path) -> None:
    """Raise CheckpointError unless the bytes of `tensor` lie in a regular file within the folder of `model_file`."""
    location = os.fspath(tensor.location)
    folder = model_file.parent.resolve()
    try:
        inside = "\0" not in location and (folder / location).resolve().is_relative_to(folder)
        if os.path.isabs(location) or not inside:
            raise _bad(tensor, model_file, "a path inside the model's folder", location)
        size = regular_file_size(folder / location)
    except (OSError, RuntimeError) as error:
        raise _bad(tensor, model_file, "a file that can be read", f"{location}: {error}") from error
    start, length = tensor.offset or 0, tensor.nbytes if tensor.length is None else tensor.length
    if start < 0 or length != tensor.nbytes or start + length > size:
        expected = f"{tensor.nbytes} bytes inside the {size} of {location}"
        raise _bad(tensor, model_file, expected, f"{length} bytes at {start}")


def _initializers(graph: ir.Graph | ir.Function) -> Iterator[ir.ExternalTensor]:
    if isinstance(graph, ir.Graph):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value


def _tensors_of(attribute: ir.Attr) -> Iterator[ir.ExternalTensor]:
    if attribute.is_ref():
        return
    items = attribute.value if isinstance(attribute.value, (list, tuple)) else [attribute.value]
    for item in items:
        if isinstance(item, ir.Graph):
            yield from _initializers(item)
        elif isinstance(item, ir.ExternalTensor):
            yield item


def _bad(tensor: ir.ExternalTensor, file: Path, expected: str, got: str) -> CheckpointError:
    what = f"{file}: external data of tensor '{str(tensor.name)[:200]}'"
    return CheckpointError(what, expected=expected, got=got[:300], fix="export the model again, with its data file")
