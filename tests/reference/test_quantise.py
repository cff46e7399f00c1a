"""SPEC section 4: modes, ties, edge cases, and the table of section 6 that the presets rest on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from innerq_export.errors import UserError
from innerq_export.reference import Quantised, dequantise, quantise
from innerq_export.spec import BITS, MODES

# SPEC section 6, dB: (mode, bits) -> (normal, Laplace)
SNR = {
    ("symmetric", 2): (3.6, 3.7),
    ("symmetric_full", 2): (8.8, 7.8),
    ("asymmetric", 2): (8.1, 6.8),
    ("hybrid", 2): (8.1, 6.8),
    ("symmetric", 3): (12.8, 11.3),
    ("symmetric_full", 3): (15.1, 13.5),
    ("asymmetric", 3): (15.5, 14.1),
    ("hybrid", 3): (15.5, 14.2),
    ("symmetric", 4): (20.2, 18.3),
    ("symmetric_full", 4): (21.3, 19.4),
}


@pytest.fixture(scope="module")
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(20_000, 32), torch.distributions.Laplace(0.0, 1.0).sample((20_000, 32))


def snr_db(x: torch.Tensor, bits: int, mode: str) -> float:
    noise = x - dequantise(quantise(x, bits, mode), bits, mode)
    return (10 * torch.log10(x.square().sum() / noise.square().sum())).item()


@pytest.mark.parametrize(("mode", "bits"), SNR)
def test_the_table_of_spec_section_6(samples, mode: str, bits: int) -> None:
    measured = [snr_db(x, bits, mode) for x in samples]
    assert measured == pytest.approx(SNR[mode, bits], abs=0.11)


def test_the_published_speed_code_would_not_meet_the_table(samples) -> None:
    """Mutation: max abs mapped to -4 with the positive end clipped (SPEC section 8.4) is not `symmetric_full`."""
    x = samples[0]
    scale = (x.abs().amax(-1) / 4).half()
    code = (x / scale.float()[:, None]).round().clamp(-4, 3).to(torch.int8)
    noise = x - dequantise(Quantised(code, scale), 3, "symmetric_full")
    snr = (10 * torch.log10(x.square().sum() / noise.square().sum())).item()
    assert abs(snr - SNR["symmetric_full", 3][0]) > 0.11


def by_hand(x: list[float], bits: int, mode: str) -> tuple[list[int], float, float]:
    """The formulas of SPEC section 4 once more, scalar by scalar: logical codes, scale, zero."""
    half, f16, f32 = 2 ** (bits - 1), torch.float16, torch.float32

    def rounded(value: torch.Tensor) -> torch.Tensor:
        return value.to(f16).to(f32)

    values = [torch.tensor(v, dtype=f32) for v in x]
    zero = torch.tensor(0.0)
    if mode == "symmetric":
        scale, low, high = rounded(max(v.abs() for v in values) / (half - 1)), 1 - half, half - 1
    elif mode == "symmetric_full":
        scale, low, high = rounded(-max(values, key=lambda v: v.abs()) / half), -half, half - 1
    else:
        scale = rounded((max(values) - min(values)) / (2 * half - 1))
        zero, low, high = rounded(min(values)), 0, 2 * half - 1
    offset = half if mode == "asymmetric" else 0
    codes = [0 if scale == 0 else int(((v - zero) / scale).round().clamp(low, high)) for v in values]
    return [code - offset for code in codes], scale.item(), zero.item()


groups = hnp.arrays("float16", 32, elements=st.floats(-65504, 65504, width=16)) | hnp.arrays(
    "float16", 32, elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 6e-8, -6e-8, 65504.0, -65504.0, 3.0])
)


@given(groups, st.sampled_from(BITS), st.sampled_from(MODES[:3]))
def test_codes_scales_and_zeros_follow_the_formulas(x, bits: int, mode: str) -> None:
    made = quantise(torch.from_numpy(x), bits, mode)
    codes, scale, zero = by_hand(x.tolist(), bits, mode)
    assert made.code.tolist() == codes
    assert made.scale.item() == scale
    assert (0.0 if made.zero is None else made.zero.item()) == zero


@given(groups, st.sampled_from(BITS))
def test_hybrid_is_the_better_of_the_two(x, bits: int) -> None:
    group = torch.from_numpy(x)
    made = quantise(group, bits, "hybrid")
    symmetric, asymmetric = quantise(group, bits, "symmetric"), quantise(group, bits, "asymmetric")

    def error(q: Quantised, mode: str) -> float:
        e = (group.float() - dequantise(q, bits, mode)).abs().tolist()
        for half in (16, 8, 4, 2, 1):
            e = [torch.tensor(e[i]).add(torch.tensor(e[i + half])).item() for i in range(half)]
        return e[0]

    takes_asymmetric = error(asymmetric, "asymmetric") < error(symmetric, "symmetric")
    chosen, mode = (asymmetric, "asymmetric") if takes_asymmetric else (symmetric, "symmetric")
    assert bool(torch.signbit(made.scale)) == takes_asymmetric
    assert torch.equal(made.code, chosen.code)
    assert made.scale.abs() == chosen.scale
    assert torch.equal(dequantise(made, bits, "hybrid"), dequantise(chosen, bits, mode))


def test_hybrid_marks_asymmetric_even_when_the_scale_is_zero() -> None:
    constant = torch.full((32,), 1.0 + 2**-10)
    made = quantise(constant, 3, "hybrid")
    assert torch.signbit(made.scale) and made.scale == 0
    assert torch.equal(dequantise(made, 3, "hybrid"), constant)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", BITS)
def test_a_zero_group_is_exact(mode: str, bits: int) -> None:
    made = quantise(torch.zeros(2, 32), bits, mode)
    assert torch.equal(dequantise(made, bits, mode), torch.zeros(2, 32))


def test_symmetric_full_takes_the_first_of_two_largest() -> None:
    x = torch.zeros(32)
    x[3], x[7] = 4.0, -4.0
    assert quantise(x, 3, "symmetric_full").scale == -1.0
    assert quantise(-x, 3, "symmetric_full").scale == 1.0


def test_rounding_is_half_to_even() -> None:
    x = torch.zeros(32)
    x[:5] = torch.tensor([3.0, 0.5, 1.5, 2.5, -0.5])
    assert quantise(x, 3, "symmetric").code[:5].tolist() == [3, 0, 2, 2, 0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_input_is_refused_by_name(bad: float) -> None:
    x = torch.ones(4, 32)
    x[2, 5] = bad
    with pytest.raises(UserError, match=r"'key' is not finite.*\[2, 5\]"):
        quantise(x, 3, "symmetric", name="key")


def test_a_scale_beyond_fp16_is_refused() -> None:
    with pytest.raises(UserError, match="scale of x"):
        quantise(torch.full((32,), 3e5), 2, "symmetric")


def test_unknown_modes_and_wrong_groups_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'symmetric'"):
        quantise(torch.ones(32), 3, "symetric")
    with pytest.raises(UserError, match="group size"):
        quantise(torch.ones(31), 3, "symmetric")
