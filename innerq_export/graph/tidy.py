"""What the torch exporter leaves behind, put in order: axis names, node names, stack traces, torch-backed constants."""

from __future__ import annotations

import ast
import re

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

AXES = ("B", "S")
_SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(model: ir.Model) -> ir.Model:
    """Name the axes of the first input `B`, `S` everywhere, nodes by their module, and drop metadata. In place."""
    names = dict(zip((str(size) for size in model.graph.inputs[0].shape or ()), AXES, strict=True))
    for value in _values(model.graph):
        _rename_axes(value, names)
        _forget(value)
    for tensor_value in model.graph.initializers.values():
        if tensor_value.const_value is not None:
            tensor_value.const_value = ir.Tensor(tensor_value.const_value.numpy(), name=tensor_value.name)
    _cast_norm_inputs(model.graph)
    CommonSubexpressionEliminationPass()(model)
    _name_nodes(model.graph)
    _forget(model.graph)
    _forget(model)
    return model


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _rename_axes(value: ir.Value, names: dict[str, str]) -> None:
    if value.shape is not None:
        renamed = [_rename(size, names) if isinstance(size, ir.SymbolicDim) else size for size in value.shape]
        value.shape = ir.Shape(renamed)


def _rename(size: ir.SymbolicDim, names: dict[str, str]) -> str | None:
    return size.value and re.sub(r"\w+", lambda word: names.get(word.group(), word.group()), size.value)


def _cast_norm_inputs(graph: ir.Graph) -> None:
    """Give RMSNormalization input and scale of one type, where the exporter fused a cast away: onnx refuses two."""
    for node in graph:
        value, scale = (*node.inputs, None, None)[:2]
        if node.op_type != "RMSNormalization" or value is None or scale is None or scale.dtype in (None, value.dtype):
            continue
        cast = ir.node("Cast", [value], {"to": scale.dtype})
        cast.outputs[0].dtype, cast.outputs[0].shape = scale.dtype, value.shape
        cast.outputs[0].name = f"{node.outputs[0].name}_input"
        cast.metadata_props.update(node.metadata_props)
        graph.insert_before(node, cast)
        node.replace_input_with(0, cast.outputs[0])


def _name_nodes(graph: ir.Graph) -> None:
    """Name each node `module/Operator`, numbered where a module repeats it, so that a parser's error says where."""
    seen: dict[str, int] = {}
    for node in graph:
        scopes = [scope for scope in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")) if scope]
        inside = [scope for scope in scopes[:-1] if scope.startswith("model.")]
        module = inside[-1].removeprefix("model.") if inside else "graph"
        name = f"{module}/{node.op_type}"
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        _forget(node)


def _forget(item: ir.Value | ir.Node | ir.Graph | ir.Model) -> None:
    item.metadata_props.clear()
    item.doc_string = None
