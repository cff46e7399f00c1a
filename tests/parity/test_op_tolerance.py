"""The op table's tolerance of InnerQAttention: honest rounding stays inside it, and faults do not."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from innerq_export.parity.metrics import decibels
from innerq_export.reference import Cache, attend_over, dequantised_history
from innerq_export.reference.ops import attention_inputs, cache_of
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import ATTENTION, OpCase

CONFIG = CacheConfig(sink=4, recent=12)


def case(dtype: str, seed: int, peaked: float = 1.0) -> tuple[Cache, dict[str, torch.Tensor]]:
    sizes = OpCase(past=(190, 77), new=(2, 1), dtype=dtype, seed=seed)
    inputs = attention_inputs(CONFIG, "logical", sizes)
    inputs["query"] = (inputs["query"] * peaked).to(inputs["query"].dtype)
    cache = cache_of(CONFIG, "logical", inputs, "present", inputs["past_length"] + inputs["new_length"])
    return cache, inputs


def run(cache: Cache, inputs: dict[str, torch.Tensor], query: torch.Tensor) -> torch.Tensor:
    history = dequantised_history(cache, inputs["past_length"], query.dtype)
    rest = (inputs[name] for name in ("key", "value", "past_length", "new_length"))
    return attend_over(history, query, *rest)


def worst_db(cache: Cache, inputs: dict[str, torch.Tensor], got: torch.Tensor) -> float:
    level = decibels(run(cache, inputs, inputs["query"].double()), got)
    real_BS = torch.arange(2) < inputs["new_length"][:, None]
    return torch.where(real_BS[:, None], level, torch.inf).min().item()


def as_tensor_cores_do(cache: Cache, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Keys and values of the history, probabilities and output rounded to the activations' dtype; sums in fp32."""
    dtype = inputs["query"].dtype
    old_key, old_value = (x.to(dtype).float() for x in dequantised_history(cache, inputs["past_length"]))
    key = torch.cat([old_key, inputs["key"].float()], 2).repeat_interleave(2, 1)
    value = torch.cat([old_value, inputs["value"].float().nan_to_num()], 2).repeat_interleave(2, 1)
    score = inputs["query"].float() @ key.transpose(-1, -2) * 64**-0.5
    token_T = torch.arange(old_key.shape[2])
    old_B1ST = (token_T < inputs["past_length"][:, None])[:, None, None].expand(-1, 1, 2, -1)
    new_B1ST = torch.ones(2, 2, dtype=torch.bool).tril().expand(2, 1, 2, 2)
    score = score.masked_fill(~torch.cat([old_B1ST, new_B1ST], -1), -torch.inf)
    weight = (score - score.amax(-1, keepdim=True)).exp()
    output = weight.to(dtype).float() @ value / weight.sum(-1, keepdim=True)
    return output.to(dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("peaked", [0.1, 1.0, 4.0])
def test_rounding_as_tensor_cores_do_is_inside(dtype: str, peaked: float) -> None:
    floor = ATTENTION.tolerance.min_db[dtype]
    for seed in range(10):
        cache, inputs = case(dtype, seed, peaked)
        assert worst_db(cache, inputs, as_tensor_cores_do(cache, inputs)) > floor


def test_fp32_is_inside_its_own() -> None:
    for seed in range(10):
        cache, inputs = case("float32", seed)
        assert worst_db(cache, inputs, run(cache, inputs, inputs["query"])) > ATTENTION.tolerance.min_db["float32"]


def rolled(cache: Cache, axis: int) -> Cache:
    blocks = {name: tensor.roll(1, axis) for name, tensor in cache.blocks.tensors().items()}
    return dataclasses.replace(cache, blocks=type(cache.blocks).of(blocks))


FAULTS = {
    "lambda not applied": lambda cache: dataclasses.replace(
        cache, key_norm_BHkvD=torch.ones_like(cache.key_norm_BHkvD)
    ),
    "block off by one": lambda cache: rolled(cache, 2),
    "KV heads swapped": lambda cache: rolled(cache, 1),
    "window slot off by one": lambda cache: dataclasses.replace(cache, window_B2HkvWD=cache.window_B2HkvWD.roll(1, 3)),
    "a block too early": lambda cache: dataclasses.replace(cache, config=cache.config.replace(sink=3, recent=13)),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_outside(dtype: str, fault: str) -> None:
    """Over five calls; a run of parity has hundreds."""
    levels = []
    for seed in range(5):
        cache, inputs = case(dtype, seed)
        levels.append(worst_db(cache, inputs, run(FAULTS[fault](cache), inputs, inputs["query"])))
    assert min(levels) < ATTENTION.tolerance.min_db[dtype]


def test_bf16_for_fp16_is_outside_where_attention_is_peaked() -> None:
    cache, inputs = case("float16", 0, peaked=4.0)
    names = ("query", "key", "value")
    in_bf16 = inputs | {name: inputs[name].to(torch.bfloat16) for name in names}
    assert worst_db(cache, inputs, as_tensor_cores_do(cache, in_bf16)) < ATTENTION.tolerance.min_db["float16"]
