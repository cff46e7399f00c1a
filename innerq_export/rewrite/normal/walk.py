"""Looking backwards in a graph: producers by op type, constants, and factors."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """Return the standard node that makes `value`, if it is of one of these types (any, if none is given)."""
    node = value.producer() if value is not None else None
    if node is None or node.domain not in ("", "ai.onnx"):
        return None
    return node if not op_types or node.op_type in op_types else None


def without_empty(value: ir.Value | None) -> ir.Value | None:
    """Return what a Concat with empty constants joins, if it is one value; else `value` itself."""
    while (node := producer(value, "Concat")) is not None:
        tensors = [ir.convenience.get_const_tensor(part) if part is not None else None for part in node.inputs]
        full = [part for part, tensor in zip(node.inputs, tensors, strict=True) if tensor is None or tensor.size > 0]
        if len(full) != 1:
            break
        value = full[0]
    return value


def scalar(value: ir.Value | None) -> float | None:
    """Return the number that a constant of one element holds, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def integers(value: ir.Value | None) -> list[int] | None:
    """Return the elements of a small integer constant, or None."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    if tensor is None or tensor.size > 16 or not tensor.dtype.is_integer():
        return None
    return [int(number) for number in tensor.numpy().reshape(-1)]


def permutation(value: ir.Value | None) -> tuple[ir.Value, list[int]] | None:
    """Return (input, perm) if a Transpose makes `value`."""
    node = producer(value, "Transpose")
    if node is None or node.inputs[0] is None:
        return None
    return node.inputs[0], list(node.attributes.get_ints("perm", ()))


def without(value: ir.Value, op_types: Sequence[str]) -> ir.Value:
    """Return what is left of `value` when unary nodes of these types are taken off."""
    while (node := producer(value, *op_types)) is not None and node.inputs[0] is not None:
        value = node.inputs[0]
    return value


def without_factor(value: ir.Value) -> tuple[ir.Value, float]:
    """Return (x, f) with value = x * f, taking off casts, and Mul and Div by constants."""
    factor = 1.0
    while True:
        value = without(value, ("Cast", "Identity"))
        node = producer(value, "Mul", "Div")
        if node is None:
            return value, factor
        left, right = node.inputs
        number = scalar(right)
        if number is not None and left is not None:
            value, factor = left, factor * number if node.op_type == "Mul" else factor / number
        elif node.op_type == "Mul" and (number := scalar(left)) is not None and right is not None:
            value, factor = right, factor * number
        else:
            return value, factor
