"""The comparison with the reference can fail: each damage to a body is seen, where it is."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import ATTENTION
from tests.rewrite.one_layer import Mutation, OneLayer, one_layer, walk

SMALL = CacheConfig(sink=3, recent=10, key_mode="hybrid", value_mode="hybrid")
KEY_SCALES = 3
CALLS = [(90, 25), (1, 1), (40, 66), (1, 0), (3, 1)]


def damaged(mutate: Mutation) -> OneLayer:
    return OneLayer(SMALL, one_layer(SMALL).geometry, mutate=mutate)


def nodes_of(function: ir.Function, op_type: str) -> list[ir.Node]:
    return [node for node in function if node.op_type == op_type]


def constant(function: ir.Function, number: float) -> ir.Node:
    """Return the first Constant node of the function with this scalar value."""
    for node in nodes_of(function, "Constant"):
        array = node.attributes["value"].as_tensor().numpy()
        if array.shape == () and array == number:
            return node
    raise AssertionError(f"no constant {number} in {function.name}")


def set_constant(node: ir.Node, number: float) -> None:
    old = node.attributes["value"].as_tensor().numpy()
    node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.array(number, old.dtype)))


def floor_instead_of_round(append: ir.Function, attention: ir.Function) -> None:
    for node in nodes_of(append, "Round"):
        node.op_type = "Floor"


def one_step_in_one_code(append: ir.Function, attention: ir.Function) -> None:
    """Clip the codes one step too early."""
    for node in nodes_of(append, "Clip"):
        limit = node.inputs[2]
        assert limit is not None
        producer = limit.producer()
        assert producer is not None
        number = producer.attributes["value"].as_tensor().numpy()
        if number == 3:
            set_constant(producer, 2)


def swapped_scales(append: ir.Function, attention: ir.Function) -> None:
    """Store the scales of a token's two key groups in each other's place."""
    scatter = append.outputs[KEY_SCALES].producer()
    assert scatter is not None
    halves = ir.node("Split", [scatter.inputs[2]], {"axis": -1, "num_outputs": 2}, num_outputs=2)
    swapped = ir.node("Concat", halves.outputs[::-1], {"axis": -1})
    append.insert_before(scatter, [halves, swapped])
    scatter.replace_input_with(2, swapped.outputs[0])


def block_one_too_early(append: ir.Function, attention: ir.Function) -> None:
    """q(n) with S + R one block short."""
    set_constant(constant(append, SMALL.sink + SMALL.recent), SMALL.sink + SMALL.recent - 32)


def block_read_one_off(append: ir.Function, attention: ir.Function) -> None:
    """Attention believes in one block less than there is."""
    set_constant(constant(attention, SMALL.sink + SMALL.recent), SMALL.sink + SMALL.recent + 32)


def window_ring_one_short(append: ir.Function, attention: ir.Function) -> None:
    set_constant(constant(append, SMALL.recent + 32), SMALL.recent + 31)


def not_causal(append: ir.Function, attention: ir.Function) -> None:
    for node in nodes_of(attention, "LessOrEqual"):
        node.op_type = "GreaterOrEqual"


CACHE_DAMAGES = {
    floor_instead_of_round: "key_codes",
    one_step_in_one_code: "codes",
    swapped_scales: "key_scales",
    block_one_too_early: "key_",
    window_ring_one_short: "window",
}


@pytest.mark.parametrize("mutate", CACHE_DAMAGES, ids=lambda mutate: mutate.__name__)
def test_a_damaged_append_is_not_equal_to_the_reference(mutate: Mutation) -> None:
    with pytest.raises(AssertionError, match=r"call \d+.*differs first at") as caught:
        walk(damaged(mutate), CALLS)
    assert re.search(CACHE_DAMAGES[mutate], str(caught.value))


@pytest.mark.parametrize("mutate", [block_read_one_off, not_causal], ids=lambda mutate: mutate.__name__)
def test_a_damaged_attention_falls_below_the_tolerance(mutate: Mutation) -> None:
    assert walk(damaged(mutate), CALLS) < ATTENTION.tolerance.min_db["float16"]


def test_the_undamaged_layer_passes_the_same_walk() -> None:
    assert walk(one_layer(SMALL), CALLS) > ATTENTION.tolerance.min_db["float16"]
