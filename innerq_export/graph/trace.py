"""torch.export and torch.onnx at opset 23 on a weightless model; weights stay open inputs until all is folded."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch

from innerq_export.errors import CheckpointError
from innerq_export.progress import Step

OPSET = 23
INPUTS = ("input_ids", "position_ids")
OUTPUT = "logits"
_WRAPPER = "model."


def trace(model: torch.nn.Module, step: Step) -> ir.Model:
    """Return `model` as ONNX: INPUTS -> OUTPUT, then its weights as further inputs, under their state-dict names.

    As long as weights are inputs no pass can fold, merge or load one. Raises CheckpointError if torch cannot trace.
    """
    try:
        with _quiet():
            step.advance(0.0, "tracing")
            exported = _export(model)
            step.advance(0.2, "translating to ONNX")
            program = torch.onnx.export(
                exported,
                dynamo=True,
                opset_version=OPSET,
                input_names=INPUTS,
                output_names=[OUTPUT],
                optimize=False,
                verbose=False,
            )
            assert program is not None
            _open_weights(program.model, set(model.state_dict()))
            step.advance(0.7, "folding constants")
            program.optimize()
    except CheckpointError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {str(error)[:500]}"
        raise CheckpointError("torch cannot trace this model", got=got, fix="report it with config.json") from error
    return program.model


class _LogitsOnly(torch.nn.Module):
    """`input_ids`, `position_ids` [B, S] int64 -> logits [B, S, V], without a cache."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of every position."""
        return self.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).logits


def _export(model: torch.nn.Module) -> torch.export.ExportedProgram:
    sizes = {0: torch.export.Dim("B"), 1: torch.export.Dim("S")}
    example = tuple(torch.zeros(2, 7, dtype=torch.int64) for _ in INPUTS)
    with torch.no_grad():
        return torch.export.export(_LogitsOnly(model), example, dynamic_shapes=(sizes, sizes), strict=False)


def _open_weights(model: ir.Model, names: set[str]) -> None:
    """Turn the initializers of the state dict into graph inputs without values, named as in the state dict."""
    graph = model.graph
    for wrapped, value in list(graph.initializers.items()):
        value.name = wrapped.removeprefix(_WRAPPER)
        if value.name in names:
            del graph.initializers[value.name]
            value.const_value = None
            graph.inputs.append(value)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's remarks about itself (torchvision missing, deprecated helpers) from the user."""
    exporter = logging.getLogger("torch.onnx._internal.exporter")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
