"""Polygraphy with InnerQ: the two ops as plugin references, runners of ours, and the option --innerq of its `run`.

`polygraphy run` loads this through the entry point `polygraphy.run.plugins`; in Python call `register_references`.
Heavy packages are imported when something runs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.tools.args.base import BaseRunnerArgs
from polygraphy.tools.args.model import ModelArgs
from polygraphy.tools.script import make_invocable

from innerq_export.spec.ops import ATTENTION, OPS, Op, config_of, resolve

if TYPE_CHECKING:
    import numpy as np
    import onnx


Arrays = Mapping[str, "np.ndarray"]


def run_reference(op: Op, attributes: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Run an op's reference on the inputs of a node, in order; the layout is told by their number and types."""
    import torch

    stated = {name: _text(value) for name, value in attributes.items() if name in ATTENTION.attributes}
    config = config_of(stated)
    packed = [port.name for port in op.inputs_for(config, "packed")]
    layout = "packed" if len(arrays) == len(packed) and arrays[-1].dtype == "int32" else "logical"
    names = [port.name for port in op.inputs_for(config, layout)]
    inputs = {name: torch.from_numpy(array.copy()) for name, array in zip(names, arrays, strict=True)}
    outputs = resolve(op.reference)(config, layout, inputs, float(stated.get("scale", 0.0)))
    return [outputs[port.name].numpy() for port in op.outputs_for(config, layout)]


def register_references() -> None:
    """Make `--pluginref` (polygraphy's PluginRefRunner) know InnerQAppend and InnerQAttention."""
    from polygraphy.backend.pluginref.references import OP_REGISTRY, register

    for op in OPS.values():
        if op.name not in OP_REGISTRY:
            register(op.name)(lambda attributes, *arrays, op=op: run_reference(op, attributes, arrays))


class ReferenceRunner(BaseRunner):
    """A whole model in which the two ops are the reference's, and all else is ONNX's own reference evaluator.

    It reads the plugin lowering too, whose ops have no bodies. Slow: it is there to be right.
    """

    def __init__(self, path: str | Path, name: str | None = None):
        super().__init__(name=name, prefix="innerq-reference-runner")
        self._path = Path(path)

    def activate_impl(self) -> None:
        """Load the model."""
        from onnx.reference import ReferenceEvaluator

        model = load_whole(self._path)
        del model.functions[:]
        self._inputs = list(model.graph.input)
        self._evaluator = ReferenceEvaluator(model, new_ops=_evaluator_ops())

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Return names, types and shapes; -1 where a size varies."""
        from onnx.helper import tensor_dtype_to_np_dtype

        metadata = TensorMetadata()
        for value in self._inputs:
            kind = value.type.tensor_type
            shape = [size.dim_value or -1 for size in kind.shape.dim]
            metadata.add(value.name, dtype=tensor_dtype_to_np_dtype(kind.elem_type), shape=shape)
        return metadata

    def infer_impl(self, feed_dict: Arrays) -> OrderedDict[str, np.ndarray]:
        """Run once."""
        start = time.perf_counter()
        outputs = self._evaluator.run(None, dict(feed_dict))
        self.inference_time = time.perf_counter() - start
        return OrderedDict(zip(self._evaluator.output_names, outputs, strict=True))

    def deactivate_impl(self) -> None:
        """Let the model go."""
        del self._evaluator, self._inputs


class ReferenceRunnerArgs(BaseRunnerArgs):
    """InnerQ: runs the model with the reference's ops."""

    def get_name_opt_impl(self) -> tuple[str, str]:
        """Return the runner's name and its option."""
        return "InnerQ reference", "innerq"

    def add_to_script_impl(self, script: Any) -> None:
        """Add the runner to the script that `polygraphy run` makes and executes."""
        script.add_import(imports=["ReferenceRunner"], frm="innerq_export.integrations.polygraphy")
        script.add_runner(make_invocable("ReferenceRunner", self.arg_groups[ModelArgs].path))


def run_plugins() -> list[BaseRunnerArgs]:
    """Entry point `polygraphy.run.plugins`: registers the references, adds --innerq."""
    register_references()
    return [ReferenceRunnerArgs()]


def load_whole(path: Path) -> onnx.ModelProto:
    """Return an ONNX with its weights inside. onnx.load refuses weights that are hard links, as engine folders have."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}
            with (path.parent / place["location"]).open("rb") as file:
                file.seek(int(place.get("offset", 0)))
                tensor.raw_data = file.read(int(place.get("length", -1)))
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
    return model


def _evaluator_ops() -> list[type]:
    from onnx.reference.op_run import OpRun

    def made(op: Op) -> type:
        def run(self: Any, *arrays: Any, **attributes: Any) -> tuple[np.ndarray, ...]:
            return tuple(run_reference(op, attributes, arrays))

        return type(op.name, (OpRun,), {"op_domain": "innerq", "_run": run})

    return [made(op) for op in OPS.values()]


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
