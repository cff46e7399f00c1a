"""Opening model.onnx, with more outputs than it has when somebody wants to look inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from innerq_export.errors import ConfigError, nearest

if TYPE_CHECKING:
    import onnx
    import onnxruntime

_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"


_COPYING = ("ConstantFolding", "FuseFp16InitializerToFp32NodeTransformer")
"""ONNX Runtime's optimisers that make fp32 copies of fp16 weights."""


def open_model(
    path: Path, extra_outputs: Sequence[str] = (), threads: int = 0, *, in_place: bool = False
) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on the CPU; `threads` 0 lets ONNX Runtime choose.

    `extra_outputs`: names of values in the main graph that become outputs too. `in_place`: weights are read where they
    are mapped, which takes a third of the memory and a longer step. Nothing is written to disk.
    """
    import onnxruntime

    from innerq_export.runtime.mapped_weights import read_weights_in_place

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    if not (extra_outputs or in_place):
        return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    settings.add_session_config_entry(_WEIGHTS_FOLDER, str(path.parent))
    model = with_outputs(path, extra_outputs)
    if in_place:
        read_weights_in_place(model)
        settings.add_session_config_entry("session.disable_prepacking", "1")
        settings.enable_cpu_mem_arena = settings.enable_mem_pattern = False
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        settings,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(_COPYING) if in_place else [],
    )


def with_outputs(path: Path, names: Sequence[str]) -> onnx.ModelProto:
    """Return the model of `path` with these values of its main graph as further outputs; weights stay outside.

    Raises ConfigError for a name that no node of the main graph makes.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    made = {name for node in model.graph.node for name in node.output}
    present = {output.name for output in model.graph.output}
    for name in names:
        if name not in made:
            raise ConfigError(f"{path.name} computes no value '{name}'", got=name, fix=nearest(name, made))
        if name not in present:
            model.graph.output.append(onnx.ValueInfoProto(name=name))
    return model
