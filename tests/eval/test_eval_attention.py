"""The whole sequence at once equals the reference token by token: what eval measures is what decoding does."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.eval.attention import _step, attend_decoding, attend_in_full
from innerq_export.reference import append, attend, dequantised_history, empty_cache
from innerq_export.reference.innerq_scheme import innerq_scheme
from innerq_export.spec import MODES, PRESETS, CacheConfig, blocks_of

HEADS, KV_HEADS, HEAD_DIM, BATCH = 4, 2, 32, 2


def sequence(tokens: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-0.7, 0.7, HEAD_DIM)
    shapes = [(BATCH, heads, tokens, HEAD_DIM) for heads in (HEADS, KV_HEADS, KV_HEADS)]
    return [(spread * torch.randn(shape, generator=generator)).half() for shape in shapes]


def stepwise(config: CacheConfig, query, key, value, prompt: int):
    """Decode as the reference does: the prompt in one call, then one token a call. Returns outputs and last cache."""
    tokens = key.shape[2]
    cache = empty_cache(config, BATCH, KV_HEADS, HEAD_DIM, max(1, blocks_of(config, tokens)))
    outputs, past = [], 0
    for new in ([prompt] if prompt else []) + [1] * (tokens - prompt):
        part = slice(past, past + new)
        lengths = torch.full((BATCH,), new)
        cache = append(cache, key[:, :, part], value[:, :, part], lengths)
        past_B = torch.full((BATCH,), past)
        outputs.append(attend(cache, query[:, :, part].float(), key[:, :, part], value[:, :, part], past_B, lengths))
        past += new
    return torch.cat(outputs, dim=2), cache


def at_once(config: CacheConfig, query, key, value, prompt: int, scheme=None):
    """What eval computes: the prompt in full precision, then all other tokens at once."""
    scheme = scheme or innerq_scheme(config, "tried")
    query, key, value = query.float(), key.float(), value.float()
    first = attend_in_full(query[:, :, :prompt], key[:, :, :prompt], value[:, :, :prompt], HEAD_DIM**-0.5)
    rest = attend_decoding(scheme, query[:, :, prompt:], key, value, HEAD_DIM**-0.5)
    return torch.cat([first, rest], dim=2)


configs = st.builds(
    CacheConfig,
    key_bits=st.sampled_from([2, 3, 4]),
    value_bits=st.sampled_from([2, 3, 8]),
    key_mode=st.sampled_from(MODES),
    value_mode=st.sampled_from(MODES),
    sink=st.sampled_from([0, 3, 32]),
    recent=st.sampled_from([0, 5, 32]),
    key_norm=st.sampled_from(["prefill", "none"]),
)


@settings(max_examples=15, deadline=None)
@given(configs, st.sampled_from([0, 1, 60, 110]), st.integers(0, 99))
def test_equal_to_the_reference_token_by_token(config, prompt, seed):
    made = sequence(150, seed)
    expected, _ = stepwise(config, *made, prompt)
    torch.testing.assert_close(at_once(config, *made, prompt), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 17])
def test_the_size_of_a_chunk_changes_nothing(monkeypatch, chunk):
    made = sequence(150)
    expected = at_once(CacheConfig(recent=16), *made, 70)
    monkeypatch.setattr("innerq_export.eval.attention.CHUNK", chunk)
    torch.testing.assert_close(at_once(CacheConfig(recent=16), *made, 70), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_read_back_is_bit_equal_to_the_reference_cache(name):
    config = PRESETS[name].replace(sink=8, recent=16)
    query, key, value = sequence(150)
    _, cache = stepwise(config, query, key, value, 70)
    history = dequantised_history(cache, torch.full((BATCH,), 150))
    scheme = innerq_scheme(config, name)
    read = scheme.read_back(key, value, 70)
    held = torch.arange(150) < 8 + 32 * blocks_of(config, 150)
    for got, full, expected in zip(read, (key, value), history, strict=True):
        seen = torch.where(held[:, None], got, full.float())
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("fault", ["a block early", "a block late", "own token", "prompt sees quantised", "sinks"])
def test_the_tolerance_sees_a_fault_of_one_block_or_token(fault):
    """Mutation: each changes which tokens are read quantised by a little, and must be far outside the tolerance."""
    config = CacheConfig(key_bits=4, value_bits=4, sink=8, recent=16)
    made = sequence(150)
    expected, _ = stepwise(config, *made, 70)
    scheme, prompt = innerq_scheme(config, "mutant"), 70
    changes = {"a block early": {"recent": -16}, "a block late": {"recent": 48}, "sinks": {"sink": 7}}
    hold = dataclasses.replace(scheme.key_hold, **changes.get(fault, {}))
    if fault == "own token":
        hold = dataclasses.replace(hold, own=False)
    if fault == "prompt sees quantised":
        prompt = 69
    mutant = dataclasses.replace(scheme, key_hold=hold, value_hold=hold)
    got = at_once(config, *made, prompt, mutant)
    assert not torch.allclose(got, expected, rtol=2e-5, atol=2e-5)
    assert (got - expected).abs().max() > 1e-3


def test_nothing_is_quantised_within_the_window():
    for tokens, exact in ((159, True), (161, False)):
        query, key, value = sequence(tokens)
        full = attend_in_full(query.float(), key.float(), value.float(), HEAD_DIM**-0.5)
        got = at_once(CacheConfig(), query, key, value, 10)
        assert torch.allclose(got, full, rtol=2e-5, atol=2e-5) == exact


def test_without_a_scheme_the_cache_is_in_full_precision():
    query, key, value = (x.float() for x in sequence(300))
    full = attend_in_full(query, key, value, HEAD_DIM**-0.5)
    got = attend_decoding(None, query[:, :, 20:], key, value, HEAD_DIM**-0.5)
    torch.testing.assert_close(got, full[:, :, 20:], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("sequences", "tokens", "card", "expected"),
    [(2, 8192, False, 256), (2, 8192, True, 1024), (16, 1 << 16, True, 32), (1 << 20, 1 << 16, True, 1)],
)
def test_a_step_is_as_long_as_a_cards_memory_allows(sequences, tokens, card, expected):
    query = SimpleNamespace(is_cuda=card, shape=(sequences, 8, 100, 64))
    assert _step(query, tokens) == expected
