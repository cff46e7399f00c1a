"""A decoder ONNX file of the user's becomes a `Graph`: parsed, external data checked, weights left where they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
from onnxscript import version_converter

from innerq_export.artifacts import Graph, digest_of
from innerq_export.checkpoint.header import regular_file_size
from innerq_export.errors import CheckpointError
from innerq_export.graph.external import check_external, external_tensors
from innerq_export.graph.onnx_shape import model_shape
from innerq_export.graph.reference import trusted

OPSET = 23
MIN_OPSET = 18
DTYPES = {ir.DataType.FLOAT16: "float16", ir.DataType.FLOAT: "float32"}
PROTOBUF_LIMIT = 2 << 30
_FIX = "export it again as docs/models.md says, or name the checkpoint's folder"


def read_graph(file: Path) -> Graph:
    """Return the decoder in `file` (absolute); the contract is that of `open_graph`."""
    model = _load(file)
    for tensor in external_tensors(model):
        check_external(tensor, file)
    _trust_initializers(model)
    dtype = _check_interface(model, file)
    _raise_opset(model, file)
    return Graph(model=model, shape=model_shape(model, file), dtype=dtype, digest=_digest(model, file))


def _load(file: Path) -> ir.Model:
    try:
        if regular_file_size(file) > PROTOBUF_LIMIT:
            raise CheckpointError(
                f"{file}: too big for an ONNX file", expected="at most 2 GiB, weights external", fix=_FIX
            )
        return ir.load(file)
    except CheckpointError:
        raise
    except OSError as error:
        fix = "name an .onnx file that is there and can be read"
        raise CheckpointError(f"{file}: cannot be read", got=error.strerror or str(error), fix=fix) from error
    except Exception as error:
        got = f"{type(error).__name__}: {str(error)[:200]}"
        raise CheckpointError(f"{file}: not an ONNX model", got=got, fix=_FIX) from error


def _check_interface(model: ir.Model, file: Path) -> str:
    """Return the dtype of the logits; raise CheckpointError when inputs or outputs are not a decoder's."""
    ids = next((value for value in model.graph.inputs if value.name == "input_ids"), None)
    if ids is None or ids.dtype != ir.DataType.INT64 or ids.shape is None or len(ids.shape) != 2:
        got = f"{ids.dtype} {ids.shape}" if ids else f"inputs {_names(model.graph.inputs)}"
        raise CheckpointError(
            f"{file}: not a text decoder", expected="input 'input_ids' int64 [B, S]", got=got, fix=_FIX
        )
    logits = model.graph.outputs[0] if model.graph.outputs else None
    if logits is None or logits.name != "logits" or logits.shape is None or len(logits.shape) != 3:
        got = f"outputs {_names(model.graph.outputs)}"
        raise CheckpointError(
            f"{file}: not a text decoder", expected="first output 'logits' [B, S, V]", got=got, fix=_FIX
        )
    if logits.dtype not in DTYPES:
        expected = "FLOAT16 or FLOAT"
        raise CheckpointError(f"{file}: logits of an unsupported dtype", expected=expected, got=logits.dtype, fix=_FIX)
    return DTYPES[logits.dtype]


def _trust_initializers(model: ir.Model) -> None:
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = trusted(value.const_value)


def _names(values: Sequence[ir.Value]) -> str:
    return ", ".join(str(value.name) for value in values[:5]) or "(none)"


def _raise_opset(model: ir.Model, file: Path) -> None:
    opset = model.opset_imports.get("", 0)
    if opset < MIN_OPSET:
        fix = f"export with opset_version={OPSET}"
        raise CheckpointError(f"{file}: opset too old", expected=f"{MIN_OPSET} or later", got=opset, fix=fix)
    if opset < OPSET:
        version_converter.convert_version(model, OPSET)


def _digest(model: ir.Model, file: Path) -> str:
    """Return a digest of the file's bytes and of the size and time of its external data files."""
    names = sorted({os.fspath(tensor.location) for tensor in external_tensors(model)})
    states = [os.stat(file.parent / name) for name in names]
    return digest_of(
        file, [(name, state.st_size, state.st_mtime_ns) for name, state in zip(names, states, strict=True)]
    )
