"""SPEC sections 2, 5 and 7: what Append leaves, in any chunking, over every boundary of S, R and blocks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.errors import UserError
from innerq_export.reference import Cache, append, dequantise_blocks, empty_cache, quantise
from innerq_export.spec import BITS, MODES, CacheConfig, blocks_of

HEADS, DIM = 2, 64
configs = st.builds(
    CacheConfig,
    key_bits=st.sampled_from(BITS),
    value_bits=st.sampled_from(BITS),
    key_mode=st.sampled_from(MODES),
    value_mode=st.sampled_from(MODES),
    sink=st.sampled_from([0, 1, 4, 32]),
    recent=st.sampled_from([0, 1, 31, 32, 40]),
    key_norm=st.sampled_from(["none", "prefill"]),
)


def tokens(batch: int, count: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Keys and values [2, B, Hkv, T, D], channels of very different size."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-1, 1, DIM)
    return (torch.randn(2, batch, HEADS, count, DIM, generator=generator) * spread).to(dtype)


def run(cache: Cache, kv: torch.Tensor, chunks: list[int]) -> Cache:
    """Append kv (batch 1) in chunks; what is left of each call's width is padding of NaN."""
    at = 0
    for new in chunks:
        padded = torch.full((2, 1, HEADS, new + 3, DIM), torch.nan, dtype=kv.dtype)
        padded[..., :new, :] = kv[..., at : at + new, :]
        cache = append(cache, padded[0], padded[1], torch.tensor([new]))
        at += new
    return cache


def assert_same(one: Cache, other: Cache) -> None:
    assert torch.equal(one.length_B, other.length_B)
    assert torch.equal(one.window_B2HkvWD, other.window_B2HkvWD)
    assert torch.equal(one.key_norm_BHkvD, other.key_norm_BHkvD)
    for name, tensor in one.blocks.tensors().items():
        assert torch.equal(tensor, other.blocks.tensors()[name]), name


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(0, 2**31), st.lists(st.integers(0, 90), min_size=1, max_size=8))
def test_any_chunking_gives_the_same_cache_once_lambda_is_equal(config, seed, chunks) -> None:
    """Lambda is made of the first call that quantises; with it equal, one token at a time must end in the same bits."""
    total = sum(chunks)
    kv = tokens(1, total, seed)
    chunked = run(empty_cache(config, 1, HEADS, DIM, 30), kv, chunks)
    start = dataclasses.replace(empty_cache(config, 1, HEADS, DIM, 30), key_norm_BHkvD=chunked.key_norm_BHkvD)
    given_lambda = dataclasses.replace(start, config=config.replace(key_norm="folded"))
    single = run(given_lambda, kv, [1] * total)
    assert_same(dataclasses.replace(single, config=config), chunked)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 2**31), st.lists(st.integers(0, 70), min_size=1, max_size=6))
def test_the_cache_holds_what_the_spec_says(config, seed, chunks) -> None:
    """Slots and blocks computed straight from the definitions, token by token."""
    total = sum(chunks)
    kv = tokens(1, total, seed)
    cache = run(empty_cache(config, 1, HEADS, DIM, 30), kv, chunks)
    held = blocks_of(config, total)
    for token in range(total):
        slot = token if token < config.sink else config.sink + (token - config.sink) % (config.recent + 32)
        newest = token < config.sink or token + config.recent + 32 >= total
        if newest:
            assert torch.equal(cache.window_B2HkvWD[0, :, :, slot], kv[:, 0, :, token])
    assert cache.blocks_held(0) == held
    for j in range(held):
        rows = slice(config.sink + 32 * j, config.sink + 32 * (j + 1))
        key = kv[0, 0, :, rows].float() / cache.key_norm_BHkvD[0, :, None].float()
        per_token = quantise(key.unflatten(-1, (-1, 32)), config.key_bits, config.key_mode)
        assert torch.equal(cache.blocks.key_codes_BHkvN32D[0, :, j], per_token.code.flatten(-2))
        assert torch.equal(cache.blocks.key_scales_BHkvN32E[0, :, j], per_token.scale)
        value = kv[1, 0, :, rows].transpose(-1, -2)
        per_channel = quantise(value, config.value_bits, config.value_mode)
        assert torch.equal(cache.blocks.value_codes_BHkvN32D[0, :, j], per_channel.code.transpose(-1, -2))
        assert torch.equal(cache.blocks.value_scales_BHkvND[0, :, j], per_channel.scale)


@pytest.mark.parametrize("sink", [0, 32])
@pytest.mark.parametrize("recent", [0, 96])
def test_blocks_are_due_exactly_at_the_boundary(sink: int, recent: int) -> None:
    config = CacheConfig(sink=sink, recent=recent)
    cache = run(empty_cache(config, 1, HEADS, DIM, 4), tokens(1, sink + recent + 31), [sink + recent + 31])
    assert cache.blocks_held(0) == 0 and not cache.blocks.key_codes_BHkvN32D.any()
    cache = run(cache, tokens(1, 1, 5), [1])
    assert cache.blocks_held(0) == 1 and cache.blocks.key_codes_BHkvN32D[:, :, 0].any()
    assert not cache.blocks.key_codes_BHkvN32D[:, :, 1].any()


def test_lambda_is_made_once_of_the_keys_of_the_first_quantising_call() -> None:
    config = CacheConfig(sink=2, recent=4)
    kv = tokens(1, 200)
    cache = run(empty_cache(config, 1, HEADS, DIM, 8), kv, [10, 80, 110])
    blocks = blocks_of(config, 90)
    expected = kv[0, 0, :, 2 : 2 + 32 * blocks].float().abs().amax(-2).sqrt().half()
    assert torch.equal(cache.key_norm_BHkvD[0], expected)


def test_lambda_is_one_for_a_channel_of_zeros() -> None:
    kv = tokens(1, 40)
    kv[0, ..., 7] = 0
    cache = run(empty_cache(CacheConfig(sink=0, recent=0), 1, HEADS, DIM, 2), kv, [40])
    assert torch.equal(cache.key_norm_BHkvD[0, :, 7], torch.ones(HEADS, dtype=torch.float16))


@pytest.mark.parametrize("key_norm", ["folded", "none"])
def test_lambda_stays_one_where_the_cache_does_not_make_it(key_norm: str) -> None:
    cache = run(empty_cache(CacheConfig(sink=0, recent=0, key_norm=key_norm), 1, HEADS, DIM, 2), tokens(1, 40), [40])
    assert torch.equal(cache.key_norm_BHkvD, torch.ones_like(cache.key_norm_BHkvD))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=5))
def test_a_ragged_batch_is_its_sequences_one_by_one(steps) -> None:
    config = CacheConfig(sink=4, recent=8)
    totals = [sum(step[b] for step in steps) for b in range(2)]
    kv = tokens(2, max(totals))
    together, at = empty_cache(config, 2, HEADS, DIM, 16), [0, 0]
    for step in steps:
        call = torch.zeros(2, 2, HEADS, max(step), DIM, dtype=torch.float16)
        for b, new in enumerate(step):
            call[:, b, :, :new] = kv[:, b, :, at[b] : at[b] + new]
            at[b] += new
        together = append(together, call[0], call[1], torch.tensor(step))
    for b in range(2):
        alone = run(empty_cache(config, 1, HEADS, DIM, 16), kv[:, b : b + 1], [step[b] for step in steps])
        assert torch.equal(together.window_B2HkvWD[b], alone.window_B2HkvWD[0])
        assert torch.equal(together.key_norm_BHkvD[b], alone.key_norm_BHkvD[0])
        for name, tensor in together.blocks.tensors().items():
            assert torch.equal(tensor[b], alone.blocks.tensors()[name][0])


def test_append_leaves_its_input_alone() -> None:
    before = run(empty_cache(CacheConfig(sink=0, recent=0), 1, HEADS, DIM, 4), tokens(1, 40), [40])
    kept = dataclasses.replace(before, window_B2HkvWD=before.window_B2HkvWD.clone(), blocks=before.blocks.clone())
    run(before, tokens(1, 40, 1), [40])
    assert_same(before, kept)


def test_dequantised_blocks_are_near_the_tokens() -> None:
    config = CacheConfig(key_bits=8, value_bits=8, sink=0, recent=0)
    kv = tokens(1, 64)
    cache = run(empty_cache(config, 1, HEADS, DIM, 2), kv, [64])
    key, value = dequantise_blocks(config, cache.blocks)
    key = key.flatten(2, 3) * cache.key_norm_BHkvD.float()[:, :, None]
    for got, want in ((key, kv[0]), (value.flatten(2, 3), kv[1])):
        assert (got - want.float()).norm() / want.float().norm() < 0.01


class TestRefusals:
    config = CacheConfig(sink=0, recent=0)

    def test_capacity(self) -> None:
        cache = empty_cache(self.config, 1, HEADS, DIM, 1)
        with pytest.raises(UserError, match="needs 2 blocks"):
            run(cache, tokens(1, 64), [64])

    def test_shape(self) -> None:
        kv = tokens(1, 4)
        with pytest.raises(UserError, match="shape of 'value'"):
            append(empty_cache(self.config, 1, HEADS, DIM, 1), kv[0], kv[1, :, :1], torch.tensor([4]))

    def test_dtype(self) -> None:
        kv = tokens(1, 4, dtype=torch.float32)
        with pytest.raises(UserError, match="dtype of 'key'"):
            append(empty_cache(self.config, 1, HEADS, DIM, 1), kv[0], kv[1], torch.tensor([4]))

    @pytest.mark.parametrize("new", [[5], [-1], [1, 1]])
    def test_new_length(self, new: list[int]) -> None:
        kv = tokens(1, 4)
        with pytest.raises(UserError, match="'new_length'"):
            append(empty_cache(self.config, 1, HEADS, DIM, 1), kv[0], kv[1], torch.tensor(new))

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, 70_000.0])
    def test_values_beyond_fp16(self, bad: float) -> None:
        kv = tokens(1, 4, dtype=torch.bfloat16)
        kv[1, 0, 1, 2, 3] = bad
        cache = empty_cache(self.config, 1, HEADS, DIM, 1, dtype=torch.bfloat16)
        with pytest.raises(UserError, match=r"'value of sequence 0'.*\[1, 2, 3\]"):
            append(cache, kv[0], kv[1], torch.tensor([4]))
