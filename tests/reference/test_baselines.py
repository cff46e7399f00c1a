"""The baselines against cases worked out by hand, with what each keeps in full precision and what it costs in bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.reference import baselines as methods
from innerq_export.reference import dequantise, quantise
from innerq_export.reference.scheme import Hold

HEAD_DIM = 64
BITS = {
    "kivi-2": 3.0,
    "kivi-4": 5.0,
    "kivi-2-sinks": 3.0,
    "kivi-4-sinks": 5.0,
    "hadamard-3": 4.0,
    "hadamard-3-window": 4.0,
    "int4-token": 4.5,
    "int8-token": 8.5,
    "fp8-e4m3": 8.0,
}


def scheme(name: str) -> methods.Scheme:
    return next(one for one in methods.baselines(HEAD_DIM) if one.name == name)


def keys_and_values(tokens: int = 160, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 2, tokens, HEAD_DIM, generator=generator).half() for _ in range(2)]


def quantised_by(hold: Hold, query: int) -> list[int]:
    """The tokens that the query of this token reads quantised."""
    tokens = torch.arange(query + 1)
    return hold.quantised(torch.tensor([query]), tokens)[0].nonzero().flatten().tolist()


@pytest.mark.parametrize("name", BITS)
def test_bits_count_codes_scales_and_zeros(name):
    assert scheme(name).bits == BITS[name]
    assert {one.name for one in methods.baselines(HEAD_DIM)} == set(BITS)


def test_bits_of_a_short_sequence_count_what_stays_in_full_precision():
    """300 tokens in KIVI-2: 256 keys and 172 values quantised, the others at 16 bits."""
    by_hand = ((256 * 3 + 44 * 16) + (172 * 3 + 128 * 16)) / 600
    assert scheme("kivi-2").bits_at(300) == pytest.approx(by_hand)
    assert scheme("fp8-e4m3").bits_at(300) == 8


@pytest.mark.parametrize(
    ("name", "query", "keys", "values"),
    [
        ("kivi-2", 127, 0, 0),
        ("kivi-2", 128, 128, 0),  # the 128 keys went together after query 127
        ("kivi-2", 129, 128, 1),
        ("kivi-2", 300, 256, 172),
        ("fp8-e4m3", 7, 7, 7),
    ],
)
def test_what_a_query_reads_quantised(name, query, keys, values):
    one = scheme(name)
    assert quantised_by(one.key_hold, query) == list(range(keys))
    assert quantised_by(one.value_hold, query) == list(range(values))


def test_kivi_with_sinks_keeps_32_first_and_at_least_96_last():
    one = scheme("kivi-2-sinks")
    assert quantised_by(one.key_hold, 159) == []
    assert quantised_by(one.key_hold, 160) == list(range(32, 64))
    assert quantised_by(one.value_hold, 130) == [32, 33]


@given(st.integers(0, 64), st.integers(0, 64), st.integers(1, 40), st.booleans(), st.integers(0, 300))
def test_a_hold_keeps_what_it_promises(sink, recent, flush, own, query):
    hold = Hold(sink, recent, flush, own)
    read = quantised_by(hold, query)
    assert all(sink <= token < query for token in read)
    assert read == list(range(sink, sink + len(read)))
    assert query + 1 - (read[-1] + 1 if read else 0) >= min(recent, query + 1)
    assert len(quantised_by(hold, query + 1)) >= len(read)
    assert len(read) <= hold.quantised_of(query + 1)


def test_asymmetric_by_hand():
    """Codes 0..3 over -1..2: scale 1, zero -1; 0.4 reads as 0, 0.6 as 1."""
    x = torch.tensor([-1.0, 2.0, 0.4, 0.6])
    assert methods.asymmetric(x, 2).tolist() == [-1.0, 2.0, 0.0, 1.0]
    assert methods.asymmetric(torch.full((4,), 0.5), 2).tolist() == [0.5] * 4


def test_asymmetric_clips_where_told():
    x = torch.tensor([-2.0, 2.0, 1.0, -1.0])
    read = methods.asymmetric(x, 8, clip=0.5)
    assert read.tolist() == pytest.approx([-1.0, 1.0, 1.0, -1.0], abs=5e-3)


@given(st.sampled_from([2, 3, 4, 8]), st.integers(0, 99))
def test_groups_of_32_are_specs_asymmetric_mode_bit_for_bit(bits, seed):
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
    expected = dequantise(quantise(x, bits, "asymmetric"), bits, "asymmetric")
    assert torch.equal(methods.asymmetric(x, bits), expected)


def test_kivi_groups_keys_over_tokens_and_values_over_channels():
    """A token of huge keys spoils its channel's group of 32 tokens only; a huge value its 32 channels only."""
    key, value = keys_and_values()
    key[0, 0, 40, 5], value[0, 0, 40, 5] = 1000.0, 1000.0
    quiet = [x.clone() for x in (key, value)]
    quiet[0][0, 0, 40, 5], quiet[1][0, 0, 40, 5] = 0.0, 0.0
    read, clean = scheme("kivi-2").read_back(key, value, 0), scheme("kivi-2").read_back(*quiet, 0)
    changed_key, changed_value = ((a != b).nonzero() for a, b in zip(read, clean, strict=True))
    assert set(changed_key[:, 3].tolist()) == {5}
    assert set(changed_key[:, 2].tolist()) <= set(range(32, 64))
    assert len(changed_key) > 16
    assert set(changed_value[:, 2].tolist()) == {40}
    assert set(changed_value[:, 3].tolist()) <= set(range(32))


def test_kivis_groups_of_keys_start_behind_the_sinks():
    key, _ = keys_and_values(100)
    read = methods.over_tokens(key, 2, 32)
    assert torch.equal(read[:, :, :32], key[:, :, :32].float())
    assert torch.equal(read[:, :, 96:], key[:, :, 96:].float())
    expected = methods.asymmetric(key[0, 0, 32:64, 7].float(), 2)
    assert torch.equal(read[0, 0, 32:64, 7], expected)


@pytest.mark.parametrize("size", [32, 64, 96, 128])
def test_the_rotation_is_orthonormal_and_spreads_one_channel_over_its_block(size):
    matrix = methods.hadamard_matrix(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), rtol=0, atol=1e-6)
    power = size & -size
    assert set(matrix[0, :power].abs().tolist()) == {matrix[0, 0].item()}
    assert (matrix[0] != 0).sum() == power


def test_rotation_helps_where_one_channel_is_large():
    """Why QuaRot rotates: an outlier channel sets the scale of its group unless it is spread."""
    key, value = keys_and_values()
    key[..., 3] *= 40
    plain = methods.over_channels(key, 3)
    rotated, _ = scheme("hadamard-3").read_back(key, value, 0)
    others = [c for c in range(32) if c != 3]
    error = [(x - key)[..., others].square().mean().item() for x in (plain, rotated)]
    assert error[1] < error[0] / 2


def test_fp8_reads_as_e4m3():
    x = torch.tensor([[[[1.0, 1.0625, 1.07, 448.0, 500.0, -1000.0, 2**-10]]]])
    read, _ = methods.fp8().read_back(x, x, 0)
    assert read.flatten().tolist() == [1.0, 1.0, 1.125, 448.0, 448.0, -448.0, 0.0]


@pytest.mark.parametrize(("name", "bits"), [("int8-token", 8), ("int4-token", 4)])
def test_per_token_takes_the_whole_head_as_one_group(name, bits):
    key, value = keys_and_values(5)
    for got, x in zip(scheme(name).read_back(key, value, 0), (key, value), strict=True):
        step = (x.float().amax(-1) - x.float().amin(-1)) / (2**bits - 1)
        error = (got - x.float()).abs().amax(-1)
        assert (error <= 0.51 * step + 2e-3).all()
        assert (error > 0.3 * step).any()


@pytest.mark.parametrize("builder", [methods.kivi, methods.hadamard])
@pytest.mark.parametrize("bits", [3, 4])
def test_a_bit_less_shows_as_more_noise(builder, bits):
    """Mutation of each quantiser: one bit less must show as at least 4 dB."""
    key, value = keys_and_values()
    reads = [builder(b).read_back(key, value, 0)[1] for b in (bits, bits - 1)]
    noise = [(read - value.float()).square().mean() for read in reads]
    assert noise[1] > 10**0.4 * noise[0]


def test_a_scheme_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        scheme("kivi-2").key_bits = 1
