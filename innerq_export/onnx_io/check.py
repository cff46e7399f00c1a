"""onnx's own checker over a model whose weights are in linked files.

The checker (onnx 1.23) refuses external data in files with several hard links. Where an initializer's bytes lie
does not matter to what else it checks, so it is shown the model with these initializers as inputs.
"""

from __future__ import annotations

import onnx

from innerq_export.errors import RewriteError


def check_model(proto: onnx.ModelProto) -> None:
    """Raise RewriteError, with onnx's message, unless `proto` is valid and its shapes and types agree."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    external = [tensor for tensor in shown.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    named = {value.name for value in shown.graph.input}
    for tensor in external:
        if tensor.name not in named:
            shown.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        shown.graph.initializer.remove(tensor)
    try:
        onnx.checker.check_model(shown, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise RewriteError(
            "onnx refuses the model that was written",
            got=str(error).splitlines()[0],
            fix="report it with the model's config.json",
        ) from error
