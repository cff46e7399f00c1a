"""What a small value of the graph really is: positions and masks are computed, not recognised.

The value's own part of the graph is cut out and run by ONNX Runtime for a given number of sequences and tokens, with
nothing cached: ids 0, an attention mask of ones, positions counting up, a past of no tokens.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

_LARGEST_WEIGHT = 1 << 20
_CACHE_RANK = 4


class NotComputableError(Exception):
    """The value depends on more than ids, positions, an attention mask and sizes; the text says on what."""


def evaluate(model: ir.Model, value: ir.Value, batch: int, tokens: int) -> np.ndarray:
    """Return `value` for `batch` sequences of `tokens` new tokens and no past. Raises NotComputableError."""
    import onnxruntime

    inputs, part = _part(model, value)
    feeds = {str(source.name): _feed(source, batch, tokens) for source in inputs}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(part, options, ["CPUExecutionProvider"])
        return session.run(None, feeds)[0]
    except Exception as error:
        raise NotComputableError(f"ONNX Runtime cannot compute '{value.name}': {str(error)[:200]}") from error


def leaves_of(value: ir.Value) -> list[ir.Value]:
    """Return the network inputs and initializers that `value` depends on."""
    return _ancestors(value)[1]


def _part(model: ir.Model, value: ir.Value) -> tuple[list[ir.Value], bytes]:
    """Return the network inputs that `value` depends on, and the part of the graph between as an ONNX file."""
    nodes, leaves = _ancestors(value)
    for leaf in leaves:
        tensor = leaf.const_value
        if tensor is not None and tensor.nbytes > _LARGEST_WEIGHT and not _is_embedding(leaf, nodes):
            raise NotComputableError(f"'{value.name}' depends on the weight '{leaf.name}'")
    inputs = [leaf for leaf in leaves if leaf.const_value is None]
    graph = ir.convenience.extract(model.graph, inputs=inputs, outputs=[value])
    for name, weight in graph.initializers.items():
        tensor = weight.const_value
        assert tensor is not None
        small = tensor.numpy() if tensor.nbytes <= _LARGEST_WEIGHT else _one_row(tensor)
        weight.const_value = ir.Tensor(small, name=name)
        weight.shape = ir.Shape(small.shape)
    for inner in (inner for node in graph for inner in node.outputs):
        inner.shape = None
    part = ir.Model(graph, ir_version=10)
    return inputs, ir.to_proto(part).SerializeToString()


def _ancestors(value: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """Return the nodes that `value` is made by, and the inputs and initializers that they start from."""
    nodes: dict[ir.Node, None] = {}
    leaves: dict[ir.Value, None] = {}
    waiting = [value]
    while waiting:
        node = (current := waiting.pop()).producer()
        if node is None:
            leaves[current] = None
        elif node not in nodes:
            nodes[node] = None
            waiting += [operand for operand in node.inputs if operand is not None]
    return list(nodes), list(leaves)


def _is_embedding(weight: ir.Value, nodes: list[ir.Node]) -> bool:
    """Whether the weight is only looked up by ids here, so that its first row will do for ids of 0."""
    readers = [node for node in nodes if weight in node.inputs]
    return all(node.op_type == "Gather" and node.attributes.get_int("axis", 0) == 0 for node in readers)


def _one_row(tensor: ir.TensorProtocol) -> np.ndarray:
    return np.zeros((1, *list(tensor.shape.numpy())[1:]), tensor.dtype.numpy())


def _feed(source: ir.Value, batch: int, tokens: int) -> np.ndarray:
    """Return what an input of the network holds in a first call."""
    dtype, shape = source.dtype, source.shape
    if dtype is None or shape is None or (dtype.is_floating_point() and shape.rank() != _CACHE_RANK):
        raise NotComputableError(f"it depends on the input '{source.name}' {dtype} {shape}")
    if source.name == "position_ids":
        return np.broadcast_to(np.arange(tokens, dtype=dtype.numpy()), (batch, tokens)).copy()
    if shape.rank() == _CACHE_RANK:
        sizes = [size if isinstance(size, int) else 0 for size in shape]
        return np.zeros([batch, *sizes[1:]], dtype.numpy())
    if shape.rank() != 2:
        raise NotComputableError(f"it depends on the input '{source.name}' {dtype} {shape}")
    fill = 1 if "mask" in str(source.name) else 0
    return np.full((batch, tokens), fill, dtype.numpy())
