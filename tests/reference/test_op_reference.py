"""The reference behind the op table: both layouts say the same, and outputs of Append are inputs of Attention."""

from __future__ import annotations

import pytest
import torch

from innerq_export.reference import attend, unpack
from innerq_export.reference.ops import append_inputs, append_op, attention_inputs, attention_op, cache_of
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import OpCase

CONFIG = CacheConfig(key_mode="hybrid", value_mode="asymmetric", sink=4, recent=8)
CASE = OpCase(past=(90, 0), new=(40, 3))


def test_append_says_the_same_in_both_layouts() -> None:
    logical = append_op(CONFIG, "logical", append_inputs(CONFIG, "logical", CASE))
    packed = append_op(CONFIG, "packed", append_inputs(CONFIG, "packed", CASE))
    for name, tensor in unpack(CONFIG, packed["present_blocks"], 64).tensors().items():
        assert torch.equal(tensor, logical[f"present_{name}"]), name
    assert torch.equal(packed["present_window"], logical["present_window"])


def test_attention_says_the_same_in_both_layouts_and_is_attend() -> None:
    outputs = []
    for layout in ("logical", "packed"):
        inputs = attention_inputs(CONFIG, layout, CASE)
        outputs.append(attention_op(CONFIG, layout, inputs)["output"])
    assert torch.equal(*outputs)
    lengths = inputs["past_length"], inputs["new_length"]
    cache = cache_of(CONFIG, "packed", inputs, "present", sum(lengths))
    direct = attend(cache, inputs["query"], inputs["key"], inputs["value"], *lengths)
    assert torch.equal(outputs[0], direct)
    assert not torch.equal(outputs[0], attention_op(CONFIG, "packed", inputs, scale=0.5)["output"])


def test_attention_inputs_are_what_append_leaves() -> None:
    before, after = append_inputs(CONFIG, "logical", CASE), attention_inputs(CONFIG, "logical", CASE)
    for name, tensor in append_op(CONFIG, "logical", before).items():
        assert torch.equal(tensor, after[name]), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_generators_follow_dtype_and_seed(dtype: str) -> None:
    case = OpCase(past=(9,), new=(2,), dtype=dtype, seed=1)
    one, same = attention_inputs(CONFIG, "logical", case), attention_inputs(CONFIG, "logical", case)
    other = attention_inputs(CONFIG, "logical", OpCase(past=(9,), new=(2,), dtype=dtype, seed=2))
    assert one["query"].dtype == one["present_window"].dtype == getattr(torch, dtype)
    assert torch.equal(one["query"], same["query"]) and not torch.equal(one["query"], other["query"])
