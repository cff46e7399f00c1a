"""Least-squares scales: never worse in any group, better by the decibels that docs/fidelity.md names, same format."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from innerq_export.errors import UserError
from innerq_export.reference import dequantise, pack, quantise, quantise_blocks, unpack
from innerq_export.reference.least_squares import quantise_least_squares
from innerq_export.spec import CacheConfig

MODES = ("symmetric", "symmetric_full", "asymmetric")
GAIN_DB = {  # normal data, least squares minus SPEC section 4
    ("symmetric", 2): 3.7,
    ("symmetric_full", 2): 0.7,
    ("asymmetric", 2): 2.2,
    ("symmetric", 3): 1.3,
    ("symmetric_full", 3): 0.6,
    ("asymmetric", 3): 1.0,
    ("symmetric_full", 4): 0.4,
}
groups = hnp.arrays("float32", (3, 32), elements=st.floats(-6e4, 6e4, width=32))


def squared_error(x, made, bits, mode):
    return (x - dequantise(made, bits, mode)).square().sum(-1)


@settings(deadline=None)
@given(groups, st.sampled_from([2, 3, 4, 8]), st.sampled_from(MODES))
def test_no_group_gets_worse_and_codes_stay_in_range(x, bits, mode):
    x = torch.from_numpy(x)
    made, formula = quantise_least_squares(x, bits, mode), quantise(x, bits, mode)
    assert (squared_error(x, made, bits, mode) <= squared_error(x, formula, bits, mode)).all()
    half = 2 ** (bits - 1)
    assert made.code.min() >= -half + (mode == "symmetric")
    assert made.code.max() <= half - 1
    assert made.scale.dtype == torch.float16
    assert torch.isfinite(made.scale).all()


@pytest.mark.parametrize(("mode", "bits"), GAIN_DB)
def test_the_gain_on_normal_data(mode, bits):
    x = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    errors = [squared_error(x, make(x, bits, mode), bits, mode).sum() for make in (quantise, quantise_least_squares)]
    assert 10 * torch.log10(errors[0] / errors[1]) == pytest.approx(GAIN_DB[mode, bits], abs=0.2)


def test_symmetric_scales_stay_positive():
    x = torch.randn(500, 32, generator=torch.Generator().manual_seed(1))
    assert (quantise_least_squares(x, 2, "symmetric").scale >= 0).all()


@pytest.mark.parametrize("mode", MODES)
def test_zero_and_constant_groups(mode):
    assert torch.equal(dequantise(quantise_least_squares(torch.zeros(2, 32), 3, mode), 3, mode), torch.zeros(2, 32))
    constant = torch.full((1, 32), 0.75)
    assert (dequantise(quantise_least_squares(constant, 3, mode), 3, mode) - constant).abs().max() < 1e-3


def test_blocks_made_so_are_packed_and_read_like_any_other():
    config = CacheConfig(value_bits=2)
    key, value = torch.randn(2, 1, 64, 32, generator=torch.Generator().manual_seed(0))
    blocks = quantise_blocks(config, key, value, torch.ones(1, 32), quantise_least_squares).part(None)
    again = unpack(config, pack(config, blocks), 32)
    for name, tensor in blocks.tensors().items():
        assert torch.equal(again.tensors()[name], tensor)
    formula = quantise_blocks(config, key, value, torch.ones(1, 32)).part(None)
    assert not torch.equal(formula.value_scales_BHkvND, blocks.value_scales_BHkvND)


def test_hybrid_is_refused():
    with pytest.raises(UserError, match="hybrid"):
        quantise_least_squares(torch.zeros(1, 32), 2, "hybrid")
