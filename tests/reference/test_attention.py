"""SPEC section 7: Attend is plain softmax attention over what the cache holds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.errors import UserError
from innerq_export.reference import Cache, append, attend, dequantise_blocks, dequantised_history, empty_cache
from innerq_export.spec import CacheConfig, blocks_of

HEADS, KV_HEADS, DIM = 6, 2, 64


def history_by_hand(cache: Cache, b: int, past: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [Hkv, past, D] in fp64, fetched token by token from the definitions."""
    config, held = cache.config, blocks_of(cache.config, int(cache.length_B[b]))
    key_blocks, value_blocks = dequantise_blocks(config, cache.blocks)
    rows = []
    for token in range(past):
        j, row = divmod(token - config.sink, 32)
        if token >= config.sink and j < held:
            key = key_blocks[b, :, j, row].double() * cache.key_norm_BHkvD[b].double()
            rows.append((key, value_blocks[b, :, j, row].double()))
        else:
            ring = config.sink + (token - config.sink) % (config.recent + 32)
            slot = token if token < config.sink else ring
            rows.append(tuple(cache.window_B2HkvWD[b, :, :, slot].double()))
    if not rows:
        empty = torch.zeros(KV_HEADS, 0, DIM, dtype=torch.float64)
        return empty, empty
    return torch.stack([row[0] for row in rows], 1), torch.stack([row[1] for row in rows], 1)


def softmax_attention(cache, query, key, value, past, new, scale) -> torch.Tensor:
    """Plain loops over sequences, heads and tokens, fp64."""
    output = torch.zeros_like(query)
    for b in range(query.shape[0]):
        old_key, old_value = history_by_hand(cache, b, int(past[b]))
        for head in range(HEADS):
            kv_head = head // (HEADS // KV_HEADS)
            for i in range(int(new[b])):
                keys = torch.cat([old_key[kv_head], key[b, kv_head, : i + 1].double()])
                values = torch.cat([old_value[kv_head], value[b, kv_head, : i + 1].double()])
                weight = torch.softmax(keys @ query[b, head, i] * scale, 0)
                output[b, head, i] = weight @ values
    return output


def call(config: CacheConfig, past: list[int], new: list[int], seed: int, padding: float = torch.nan):
    """A cache of `past` tokens, then one call of `new` tokens: everything that attend takes."""
    torch.manual_seed(seed)
    history = torch.randn(2, 2, KV_HEADS, max([*past, 1]), DIM).half()
    fresh = torch.randn(2, 2, KV_HEADS, max(new), DIM).half()
    for b in range(2):
        fresh[:, b, :, new[b] :] = padding
    cache = append(empty_cache(config, 2, KV_HEADS, DIM, 12), history[0], history[1], torch.tensor(past))
    cache = append(cache, fresh[0], fresh[1], torch.tensor(new))
    query = torch.randn(2, HEADS, max(new), DIM, dtype=torch.float64) * 2
    return cache, query, fresh[0], fresh[1], torch.tensor(past), torch.tensor(new)


pairs = st.tuples(st.integers(0, 150), st.integers(0, 150))
small = st.tuples(st.integers(1, 9), st.integers(0, 9))
configs = st.builds(
    CacheConfig,
    key_mode=st.sampled_from(["symmetric_full", "hybrid"]),
    value_mode=st.sampled_from(["symmetric", "asymmetric"]),
    sink=st.sampled_from([0, 3, 32]),
    recent=st.sampled_from([0, 5, 40]),
)


@settings(max_examples=20, deadline=None)
@given(configs, pairs, small, st.integers(0, 2**31), st.sampled_from([None, 0.3]))
def test_attention_is_softmax_over_the_dequantised_cache(config, past, new, seed, scale) -> None:
    given_to_attend = call(config, list(past), list(new), seed)
    got = attend(*given_to_attend, scale=scale)
    want = softmax_attention(*given_to_attend, scale=scale or DIM**-0.5)
    assert torch.allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sink", [0, 32])
@pytest.mark.parametrize("recent", [0, 96])
def test_every_boundary(sink: int, recent: int) -> None:
    """One token before, at and after each end of S, of S + R and of the first two blocks, both as past and as total."""
    config = CacheConfig(sink=sink, recent=recent)
    ends = {0, sink, sink + recent, sink + recent + 32, sink + recent + 64}
    for past in sorted({max(0, end + step) for end in ends for step in (-1, 0, 1)}):
        given_to_attend = call(config, [past, max(0, past - 1)], [2, 1], past)
        want = softmax_attention(*given_to_attend, scale=DIM**-0.5)
        assert torch.allclose(attend(*given_to_attend), want, rtol=0, atol=1e-6), past


def test_the_history_is_what_the_definitions_say() -> None:
    cache, *_, past, _ = call(CacheConfig(sink=4, recent=8), [150, 40], [3, 1], 0)
    key, value = dequantised_history(cache, past, torch.float64)
    for b in range(2):
        held = int(past[b])
        by_hand = history_by_hand(cache, b, held)
        assert torch.equal(key[b, :, :held], by_hand[0]) and torch.equal(value[b, :, :held], by_hand[1])
        assert not key[b, :, held:].any() and not value[b, :, held:].any()


def damaged(cache: Cache, **parts: torch.Tensor) -> Cache:
    return dataclasses.replace(cache, blocks=type(cache.blocks).of(cache.blocks.tensors() | parts))


@pytest.mark.parametrize("fault", ["code", "scale", "lambda", "block", "window"])
def test_the_tolerance_sees_a_fault(fault: str) -> None:
    """Mutations: a code one step off, two scales swapped, lambda dropped, a block and a window slot off by one."""
    cache, *rest = call(CacheConfig(sink=0, recent=8), [150, 120], [1, 1], 3)
    good, parts = attend(cache, *rest), cache.blocks.tensors()
    if fault == "code":
        codes = parts["value_codes"].clone()
        codes[0, 0, 1, 5, 9] += 1
        bad = damaged(cache, value_codes=codes)
    elif fault == "scale":
        bad = damaged(cache, key_scales=parts["key_scales"].flip(-1))
    elif fault == "lambda":
        bad = dataclasses.replace(cache, key_norm_BHkvD=torch.ones_like(cache.key_norm_BHkvD))
    elif fault == "block":
        bad = damaged(cache, **{name: tensor.roll(1, 2) for name, tensor in parts.items()})
    else:
        bad = dataclasses.replace(cache, window_B2HkvWD=cache.window_B2HkvWD.roll(1, 3))
    assert (attend(bad, *rest) - good).abs().max() > 1e-5


def test_padding_neither_shows_nor_harms() -> None:
    cache, query, key, value, past, new = call(CacheConfig(), [7, 0], [4, 1], 1)
    clean = call(CacheConfig(), [7, 0], [4, 1], 1, padding=0.0)
    got = attend(cache, query, key, value, past, new)
    assert torch.equal(got, attend(*clean))
    assert not got[1, :, 1:].any()


def test_fp16_queries_give_fp16_close_to_fp64() -> None:
    cache, query, *rest = call(CacheConfig(), [250, 90], [2, 2], 2)
    got, want = attend(cache, query.half(), *rest), attend(cache, query.half().double(), *rest)
    assert got.dtype == torch.float16
    assert (got.double() - want).norm() / want.norm() < 1e-3


def test_a_cache_from_before_append_is_refused() -> None:
    cache, query, key, value, past, new = call(CacheConfig(), [5, 5], [1, 1], 0)
    with pytest.raises(UserError, match="what the cache holds"):
        attend(cache, query, key, value, past + 1, new)
    with pytest.raises(UserError, match="shape of 'query'"):
        attend(cache, query[:, :3], key, value, past, new)
