"""Append through the C ABI: codes, scales, zeros, lambda and window equal the reference bit for bit."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innerq_export.integrations import structs
from innerq_export.integrations.library import ConfigError
from innerq_export.spec import BITS, KEY_NORMS, MODES, PRESETS, CacheConfig
from tests.kernels.side_by_side import POISON, SideBySide, bits, lengths

SMALL = CacheConfig(sink=4, recent=8)
relaxed = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.mark.parametrize(("bit", "mode"), list(itertools.product(BITS, MODES)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_mode_and_width(kernels, bit, mode, dtype):
    other = MODES[(MODES.index(mode) + 1) % 4]
    config = SMALL.replace(key_bits=bit, key_mode=mode, value_bits=bit, value_mode=other)
    pair = SideBySide(kernels, config, dtype=dtype)
    pair.append(pair.random(100, 1), pair.random(100, 2), [100, 76])
    for step in range(3):
        pair.append(pair.random(1, 3 + step), pair.random(1, 9 + step))
    pair.check()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(64, torch.float16), (128, torch.float16), (256, torch.float16), (128, torch.bfloat16)]
)
def test_presets(kernels, name, head_dim, dtype):
    """Steps of up to 8 tokens run kernels that are compiled for the preset, of which three flush here."""
    pair = SideBySide(kernels, PRESETS[name], head_dim=head_dim, batch=1, heads=1, dtype=dtype)
    for tokens in (150, 3, 8, 30, 1, 2, 26, 8, 31, 70):
        pair.append(pair.random(tokens, 1), pair.random(tokens, 2))
        pair.check()


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 16, 31, 32, 33, 64, 90]), st.integers(0, 90)), min_size=1, max_size=6),
    st.sampled_from([(0, 0), (4, 8), (32, 0), (0, 33)]),
    st.sampled_from(KEY_NORMS),
    st.sampled_from([0, 1, 2, 3]),
)
@relaxed
def test_any_chunking_of_ragged_sequences(kernels, calls, kept, key_norm, page_blocks):
    config = CacheConfig(sink=kept[0], recent=kept[1], key_norm=key_norm, key_mode="hybrid", value_bits=2)
    pair = SideBySide(kernels, config, heads=1, blocks=18, pages=page_blocks)
    for index, (tokens, second) in enumerate(calls):
        key, value = pair.random(tokens, index), pair.random(tokens, index + 50)
        new = [tokens, min(second, tokens)]
        key[1, :, new[1] :] = torch.nan
        value[1, :, new[1] :] = torch.inf
        device = pair.kernels.device
        pair.append_library(key.to(device), value.to(device), new)
        pair.expected = _reference(pair, key, value, new)
    pair.check()


def _reference(pair, key, value, new):
    from innerq_export import reference

    return reference.append(pair.expected, key.nan_to_num(), value.nan_to_num(posinf=0.0), lengths(new))


def test_every_boundary_token_by_token(kernels):
    pair = SideBySide(kernels, SMALL, heads=1, batch=1)
    for step in range(4 + 8 + 2 * 32 + 3):
        pair.append(pair.random(1, step), pair.random(1, 1000 + step))
        pair.check()


@pytest.mark.parametrize("tokens", [2, 5, 16, 32])
def test_a_flush_reads_slots_that_the_same_call_overwrites(kernels, tokens):
    """Window of 4 + 8 + 32: every past length makes another overlap of due block and overwritten slots."""
    for past in range(30, 80):
        pair = SideBySide(kernels, SMALL, heads=1, batch=1)
        pair.append(pair.random(past, 1), pair.random(past, 2))
        pair.append(pair.random(tokens, 3), pair.random(tokens, 4))
        pair.check()


def adversarial(kind: str, like: torch.Tensor) -> torch.Tensor:
    x = like.clone()
    if kind == "zeros":
        return torch.zeros_like(x)
    if kind == "signed zeros":
        return torch.zeros_like(x).copysign(x)
    if kind == "constant":
        return torch.full_like(x, -0.7)
    if kind == "subnormal":
        return (torch.sign(x) * 2.0**-24 * (1 + (x.float() * 8).round().abs())).to(x.dtype)
    if kind == "outlier":
        x = x * 1e-3
        x[..., ::7, 3] = 60000.0
        return x
    if kind == "largest":
        return torch.sign(x) * 65504.0 if x.dtype == torch.float16 else torch.sign(x) * 65280.0
    if kind == "tiny":
        return (x.double() * 2.0**-131).to(x.dtype)
    if kind == "wide":
        return (x.double() * 2.0 ** torch.linspace(-130, 14, x.shape[-1]).round()).to(x.dtype)
    if kind == "ties":
        return (x.float() * 4).round().to(x.dtype) / 2
    raise AssertionError(kind)


KINDS = ["zeros", "signed zeros", "constant", "subnormal", "outlier", "largest", "tiny", "wide", "ties"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("key_norm", ["prefill", "none"])
def test_adversarial_inputs(kernels, kind, dtype, key_norm):
    for bit, mode in itertools.product(BITS, MODES):
        config = SMALL.replace(key_bits=bit, key_mode=mode, value_bits=bit, value_mode=mode, key_norm=key_norm)
        pair = SideBySide(kernels, config, dtype=dtype, batch=1)
        key, value = (adversarial(kind, pair.random(80, seed)) for seed in (1, 2))
        pair.append(key, value)
        pair.check()


@pytest.mark.parametrize("tokens", [1, 3, 40, 80])
def test_non_finite_input_harms_nobody_else(kernels, tokens):
    """Sequence 1 goes on as if sequence 0 had been given numbers; records and windows of others stay as they were."""
    pair = SideBySide(kernels, SMALL.replace(value_mode="hybrid"))
    pair.append(pair.random(42, 1), pair.random(42, 2))
    key, value = pair.random(tokens, 3), pair.random(tokens, 4)
    for x, bad in ((key, torch.nan), (value, torch.inf)):
        x[0, 0, :, ::3] = bad
    pair.append_library(key, value)
    pair.expected = _reference(pair, key, value, [tokens, tokens])
    assert (pair.records()[0, :, 4:] == POISON).all()
    assert torch.equal(bits(pair.cache.window_B2HkvWD[1]), bits(pair.expected.window_B2HkvWD[1]))
    pair.check_records(1)


@pytest.mark.parametrize("tokens", [1, 20, 50])
@pytest.mark.parametrize("page_blocks", [0, 2])
def test_a_sequence_without_room_is_left_as_it_was(kernels, tokens, page_blocks):
    pair = SideBySide(kernels, SMALL, blocks=2, pages=page_blocks)
    pair.append(pair.random(107, 1), pair.random(107, 2), [107, 20])
    before = [x.clone() for x in (pair.cache.window_B2HkvWD, pair.cache.key_norm_BHkvD, pair.cache.blocks)]
    pair.append_library(pair.random(tokens, 3), pair.random(tokens, 4), [tokens, 0])
    after = (pair.cache.window_B2HkvWD, pair.cache.key_norm_BHkvD, pair.cache.blocks)
    for x, y in zip(before, after, strict=True):
        assert torch.equal(bits(x), bits(y))
    assert pair.cache.flags.tolist() == [structs.FLAG_CAPACITY]


@pytest.mark.parametrize("tokens", [1, 40])
@pytest.mark.parametrize("page", [-1, 6, 2**31 - 1])
def test_a_missing_page_drops_the_append(kernels, tokens, page):
    pair = SideBySide(kernels, SMALL, pages=2)
    pair.append(pair.random(43, 1), pair.random(43, 2))
    pair.cache.block_table_BP[0, 0] = page
    before = [x.clone() for x in (pair.cache.window_B2HkvWD, pair.cache.key_norm_BHkvD, pair.cache.blocks)]
    pair.append_library(pair.random(tokens, 3), pair.random(tokens, 4), [tokens, 0])
    after = (pair.cache.window_B2HkvWD, pair.cache.key_norm_BHkvD, pair.cache.blocks)
    assert all(torch.equal(bits(x), bits(y)) for x, y in zip(before, after, strict=True))
    assert pair.cache.flags.tolist() == [structs.FLAG_CAPACITY]


@pytest.mark.parametrize("new", [-1, 6])
@pytest.mark.parametrize("tokens", [5, 40])
def test_impossible_lengths_drop_the_append(kernels, new, tokens):
    pair = SideBySide(kernels, SMALL)
    pair.append(pair.random(50, 1), pair.random(50, 2))
    pair.append_library(pair.random(tokens, 3), pair.random(tokens, 4), [new if new < 0 else tokens + 1, 0])
    pair.check()
    assert pair.cache.flags.tolist() == [structs.FLAG_LENGTH]


def test_the_host_knows_when_nothing_could_fit(kernels):
    pair = SideBySide(kernels, SMALL, blocks=1)
    with pytest.raises(ConfigError, match="need 2 blocks"):
        pair.append_library(pair.random(76), pair.random(76))


def test_strided_tokens_are_read_in_place(kernels):
    """[B, S, H, D] as a model has them, transposed to [B, H, S, D] without a copy."""
    pair = SideBySide(kernels, SMALL)
    key, value = (pair.random(60, seed).transpose(1, 2).contiguous().transpose(1, 2) for seed in (1, 2))
    assert not key.is_contiguous()
    pair.append(key, value)
    pair.check()
