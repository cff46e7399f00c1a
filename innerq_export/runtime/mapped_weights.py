"""Matrix products that read their weights where they are mapped: the form of a large model that takes least memory.

ONNX Runtime (1.31, CPU) multiplies in fp32. It keeps an fp32 copy of all fp16 weights, made while it opens the model,
and with its optimisers off, transposed copies from the start of a call to its end. In this form

    MatMul(x, Transpose(W))  ->  Cast(FusedMatMul(Cast(x), Cast(W), transB=1))

a weight is cast when its product is due and dropped after it, which is what ONNX Runtime does, one weight at a time. It
runs what a node needs in the order of falling position in the file, so the casts of weights stand first in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import NodeProto, TensorProto, helper

_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
_DOMAIN = "com.microsoft"


def read_weights_in_place(model: onnx.ModelProto) -> int:
    """Bring every product of the main graph with a matrix of weights, fp16 or fp32, into that form, in place.

    Returns how many there were. The model computes the same.
    """
    graph = model.graph
    dtypes = {weight.name: weight.data_type for weight in graph.initializer if len(weight.dims) == 2}
    turned = {node.output[0]: node.input[0] for node in graph.node if _turns(node) and node.input[0] in dtypes}
    casts: dict[str, NodeProto] = {}
    nodes: list[NodeProto] = []
    count = 0
    for node in graph.node:
        weight = turned.get(node.input[1], node.input[1]) if node.op_type == "MatMul" else ""
        if dtypes.get(weight) in (_HALF, _FLOAT):
            nodes += _product(node, weight, node.input[1] in turned, dtypes[weight] == _HALF, casts)
            count += 1
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend([*casts.values(), *_used(nodes, graph)])
    if count:
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return count


def _turns(node: NodeProto) -> bool:
    return node.op_type == "Transpose" and [list(item.ints) for item in node.attribute] in ([[1, 0]], [])


def _product(
    node: NodeProto, weight: str, turned: bool, half: bool, casts: dict[str, NodeProto]
) -> Iterator[NodeProto]:
    x, y = node.input[0], node.output[0]
    if half:
        casts[weight] = helper.make_node("Cast", [weight], [f"{weight}/fp32"], to=_FLOAT)
        yield helper.make_node("Cast", [x], [f"{y}/x"], to=_FLOAT)
        x, weight, y = f"{y}/x", f"{weight}/fp32", f"{y}/fp32"
    yield helper.make_node("FusedMatMul", [x, weight], [y], name=node.name, domain=_DOMAIN, transB=int(turned))
    if half:
        yield helper.make_node("Cast", [y], [node.output[0]], to=_HALF)


def _used(nodes: list[NodeProto], graph: onnx.GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes but transposed weights that nobody reads any more."""
    read = {name for node in nodes for name in node.input} | {output.name for output in graph.output}
    yield from (node for node in nodes if not _turns(node) or node.output[0] in read)
