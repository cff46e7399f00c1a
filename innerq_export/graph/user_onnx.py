"""A decoder ONNX file of the user's becomes a `Graph`: parsed, external data checked, weights left where they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from innerq_export.artifacts import Graph, digest_of
from innerq_export.checkpoint.header import regular_file_size
from innerq_export.errors import CheckpointError
from innerq_export.graph.onnx_shape import model_shape
from innerq_export.progress import Progress, Silent

OPSET = 23
MIN_OPSET = 18
DTYPES = {ir.DataType.FLOAT16: "float16", ir.DataType.FLOAT: "float32"}
PROTOBUF_LIMIT = 2 << 30


def open_graph(path: str | Path, progress: Progress | None = None) -> Graph:
    """Return the decoder in the ONNX file `path`; its sizes come from a config.json beside it, else from the graph.

    Expects opset 18 or later (converted to 23 where older), an input `input_ids` [B, S] and a first output `logits`
    [B, S, V]. Raises CheckpointError.
    """
    file = Path(path).absolute()
    with (progress or Silent()).stage("reading ONNX") as step:
        step.advance(0.0, file.name)
        model = _load(file)
        for tensor in external_tensors(model):
            check_external(tensor, file)
        _check_interface(model, file)
        _raise_opset(model, file)
        dtype = DTYPES.get(model.graph.outputs[0].dtype or ir.DataType.UNDEFINED)
        if dtype is None:
            got = model.graph.outputs[0].dtype
            raise CheckpointError(f"{file}: logits of an unsupported dtype", expected="FLOAT16 or FLOAT", got=got)
        return Graph(model=model, shape=model_shape(model, file), dtype=dtype, digest=_digest(model, file))


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield every external tensor of the model: initializers and node attributes, subgraphs and functions included."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        yield from _initializers(graph)
        for node in ir.traversal.RecursiveGraphIterator(graph):
            for attribute in node.attributes.values():
                if isinstance(attribute, ir.Attr):
                    yield from _tensors_of(attribute)


def check_external(tensor: ir.ExternalTensor, model_file: Path) -> None:
    """Raise CheckpointError unless the bytes of `tensor` lie in a regular file within the folder of `model_file`."""
    location = os.fspath(tensor.location)
    folder = model_file.parent.resolve()
    if os.path.isabs(location) or "\0" in location or not (folder / location).resolve().is_relative_to(folder):
        raise _bad_external(tensor, model_file, "a path inside the model's folder", location)
    try:
        size = regular_file_size(folder / location)
    except OSError as error:
        raise _bad_external(tensor, model_file, "a file that can be read", f"{location}: {error.strerror}") from error
    start, length = tensor.offset or 0, tensor.length if tensor.length is not None else tensor.nbytes
    if start < 0 or length != tensor.nbytes or start + length > size:
        expected = f"{tensor.nbytes} bytes inside the {size} of {location}"
        raise _bad_external(tensor, model_file, expected, f"{length} bytes at {start}")


def _load(file: Path) -> ir.Model:
    try:
        if regular_file_size(file) > PROTOBUF_LIMIT:
            raise CheckpointError(f"{file}: too big for an ONNX file", expected="at most 2 GiB, weights external")
        model = ir.load(file)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read", got=error.strerror or str(error)) from error
    except Exception as error:
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{file}: not an ONNX model", got=got, fix="export it again") from error
    return model


def _raise_opset(model: ir.Model, file: Path) -> None:
    from onnxscript import version_converter

    opset = model.opset_imports.get("", 0)
    if opset < MIN_OPSET:
        fix = f"export with opset_version={OPSET}"
        raise CheckpointError(f"{file}: opset too old", expected=f"{MIN_OPSET} or later", got=opset, fix=fix)
    if opset < OPSET:
        version_converter.convert_version(model, OPSET)


def _initializers(graph: ir.Graph | ir.Function) -> Iterator[ir.ExternalTensor]:
    values = graph.initializers.values() if isinstance(graph, ir.Graph) else ()
    yield from (value.const_value for value in values if isinstance(value.const_value, ir.ExternalTensor))


def _tensors_of(attribute: ir.Attr) -> Iterator[ir.ExternalTensor]:
    if attribute.type == ir.AttributeType.GRAPH:
        yield from _initializers(attribute.as_graph())
    elif attribute.type == ir.AttributeType.GRAPHS:
        for graph in attribute.as_graphs():
            yield from _initializers(graph)
    elif attribute.type in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
        tensors = attribute.value if isinstance(attribute.value, (list, tuple)) else [attribute.value]
        yield from (tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor))


def _check_interface(model: ir.Model, file: Path) -> None:
    inputs = {value.name: value for value in model.graph.inputs}
    outputs = [value.name for value in model.graph.outputs]
    ids = inputs.get("input_ids")
    if ids is None or ids.dtype != ir.DataType.INT64 or ids.shape is None or len(ids.shape) != 2:
        got = f"{ids.dtype} {ids.shape}" if ids is not None else f"inputs {', '.join(map(str, inputs))}"
        raise CheckpointError(f"{file}: not a text decoder", expected="input 'input_ids' int64 [B, S]", got=got)
    if not outputs or outputs[0] != "logits":
        got = f"outputs {', '.join(map(str, outputs[:5]))}"
        raise CheckpointError(f"{file}: not a text decoder", expected="first output 'logits'", got=got)


def _digest(model: ir.Model, file: Path) -> str:
    tensors = [(tensor.name, os.fspath(tensor.location), tensor.offset) for tensor in external_tensors(model)]
    files = sorted({os.fspath(tensor.location) for tensor in external_tensors(model)})
    sizes = [(name, os.stat(file.parent / name).st_size, os.stat(file.parent / name).st_mtime_ns) for name in files]
    return digest_of(file, tensors, sizes)


def _bad_external(tensor: ir.ExternalTensor, file: Path, expected: str, got: str) -> CheckpointError:
    what = f"{file}: external data of tensor '{str(tensor.name)[:200]}'"
    return CheckpointError(what, expected=expected, got=got[:300], fix="export the model again, with its data file")
