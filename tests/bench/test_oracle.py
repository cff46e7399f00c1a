from __future__ import annotations

import dataclasses

import pytest
import torch

from innerq_export import reference
from innerq_export.bench import oracle
from innerq_export.bench.cases import Case
from innerq_export.bench.inputs import random_step
from innerq_export.integrations.cpu import to_reference
from innerq_export.spec import PRESETS


def step_of(preset="balanced", layout="plain", tokens=300, query_scale=1.0):
    case = Case(preset, 2, 4, 2, tokens, head_dim=64, layout=layout)
    return random_step(case, torch.device("cpu"), torch.Generator().manual_seed(1), query_scale)


def reference_of(step):
    cache = to_reference(step.cache, step.past_length_B + 1)
    new = torch.ones_like(step.past_length_B)
    return reference.attend(
        cache, step.query_BHq1D.double(), step.key_BHkv1D, step.value_BHkv1D, step.past_length_B, new
    )


@pytest.mark.parametrize("layout", ["plain", "paged"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_oracle_is_the_reference(preset, layout):
    step = step_of(preset, layout)
    assert torch.allclose(oracle.attend64(step), reference_of(step), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 32, 33, 128, 129, 159, 160, 161, 192])
def test_at_the_boundaries_of_sink_recent_and_blocks(tokens):
    step = step_of(tokens=tokens)
    assert torch.allclose(oracle.attend64(step), reference_of(step), rtol=1e-5, atol=1e-6)


def test_peaked_softmax():
    step = step_of(query_scale=12.0)
    assert torch.allclose(oracle.attend64(step), reference_of(step), rtol=1e-4, atol=1e-5)


def test_one_code_bit_and_a_swapped_scale_show():
    step = step_of()
    expected = oracle.attend64(step)
    for word in (0, -1):
        blocks = step.cache.blocks.clone()
        blocks[0, 0, 0, word] ^= 1 << 4
        changed = dataclasses.replace(step, cache=dataclasses.replace(step.cache, blocks=blocks))
        assert not torch.allclose(oracle.attend64(changed), expected, rtol=1e-7, atol=1e-9)


def test_heads_may_be_taken_one_at_a_time(monkeypatch):
    step = step_of(layout="paged")
    expected = oracle.attend64(step)
    monkeypatch.setattr(oracle, "TOKENS_AT_ONCE", 1)
    assert torch.equal(oracle.attend64(step), expected)
