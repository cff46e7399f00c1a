"""The sizes of a decoder ONNX: from config.json beside it, else from its `Attention` nodes."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from innerq_export.artifacts import ModelShape
from innerq_export.checkpoint.config import read_config
from innerq_export.errors import CheckpointError

UNKNOWN_POSITIONS = 1 << 17
_EXPANDING = ("Reshape", "Expand", "Unsqueeze", "Tile")


def model_shape(model: ir.Model, file: Path) -> ModelShape:
    """Return the sizes of `model`. Without a config.json, max_positions is taken as 131,072. Raises CheckpointError."""
    if (file.parent / "config.json").exists():
        return ModelShape.from_config(read_config(file.parent))
    nodes = [node for node in model.graph if node.op_type == "Attention" and node.domain in ("", "ai.onnx")]
    if not nodes:
        raise _unknown(file, "standard Attention nodes", "none")
    heads, head_dim = _heads(nodes[0], 0, "q_num_heads", file)
    kv_heads, _ = _heads(nodes[0], 1, "kv_num_heads", file)
    vocab = _size(model.graph.outputs[0], -1, file)
    return ModelShape(len(nodes), heads, kv_heads, head_dim, vocab, UNKNOWN_POSITIONS)


def _heads(node: ir.Node, position: int, attribute: str, file: Path) -> tuple[int, int]:
    """Return heads and head dim of query (0) or key (1), before the expansion of grouped heads."""
    value = node.inputs[position]
    if value is None or value.shape is None:
        raise _unknown(file, f"a shape on input {position} of Attention '{node.name}'", "none")
    if len(value.shape) == 3:
        heads = node.attributes.get_int(attribute, 0)
        if heads < 1:
            raise _unknown(file, f"attribute {attribute} on Attention '{node.name}'", "none")
        return heads, _size(value, 2, file) // heads
    return _size(_unexpanded(value) if position else value, 1, file), _size(value, 3, file)


def _unexpanded(value: ir.Value) -> ir.Value:
    """Return the value that Unsqueeze, Expand and Reshape repeated over the heads of a group, or `value` itself."""
    source, expanded = value, False
    while (node := source.producer()) is not None and node.op_type in _EXPANDING and node.inputs[0] is not None:
        expanded |= node.op_type in ("Expand", "Tile")
        source = node.inputs[0]
        if expanded and node.op_type == "Unsqueeze":
            return source
    return value


def _size(value: ir.Value, axis: int, file: Path) -> int:
    size = value.shape[axis] if value.shape is not None else None
    if not isinstance(size, int):
        raise _unknown(file, f"a fixed size on axis {axis} of '{value.name}'", str(size))
    return size


def _unknown(file: Path, expected: str, got: str) -> CheckpointError:
    fix = "put the model's config.json beside the ONNX file"
    return CheckpointError(
        f"{file}: the model's sizes cannot be read from the graph", expected=expected, got=got, fix=fix
    )
