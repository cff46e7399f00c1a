"""Profiles: what an engine is built for, from the model's and the cache's sizes."""

import pytest

from innerq_export.engine import default_profiles
from innerq_export.engine.profiles import Range, capacity_blocks, largest
from innerq_export.errors import ConfigError
from innerq_export.spec import CacheConfig, blocks_of
from tests.engine.toy import SHAPE


def test_prefill_takes_whole_prompts_and_decode_one_token():
    prefill, decode = default_profiles(SHAPE, CacheConfig(), max_batch=4, max_context=1024)
    assert (prefill.tokens, decode.tokens) == (Range(1, 512, 1024), Range(1, 1, 1))
    assert prefill.batch == decode.batch == Range(1, 1, 4)
    assert prefill.blocks == decode.blocks == Range(1, 14, 28)
    assert largest((prefill, decode)) == (4, 1024, 28)


def test_one_profile_takes_every_step_that_two_take():
    prefill, decode = default_profiles(SHAPE, CacheConfig(), 4, 1024)
    (only,) = default_profiles(SHAPE, CacheConfig(), 4, 1024, split=False)
    assert (only.batch, only.tokens, only.blocks) == (prefill.batch, prefill.tokens, prefill.blocks)
    assert only.tokens.min == decode.tokens.min == 1


@pytest.mark.parametrize("tokens", [1, 128, 159, 160, 161, 4095, 4096])
def test_the_capacity_holds_every_block_and_is_never_empty(tokens):
    capacity = capacity_blocks(CacheConfig(), tokens)
    assert capacity >= max(1, blocks_of(CacheConfig(), tokens))
    assert capacity == 1 or capacity == blocks_of(CacheConfig(), tokens)


@pytest.mark.parametrize("context", [2, 3, 100, 4096])
def test_every_context_of_the_model_gives_profiles(context):
    assert largest(default_profiles(SHAPE, CacheConfig(), 1, context))[1] == context


@pytest.mark.parametrize("context", [-1, 0, 1, 4097])
def test_a_context_that_the_model_cannot_hold_is_refused(context):
    with pytest.raises(ConfigError, match="4096"):
        default_profiles(SHAPE, CacheConfig(), 1, context)


@pytest.mark.parametrize("bounds", [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
def test_impossible_ranges_are_refused(bounds):
    with pytest.raises(ConfigError, match="min <= opt <= max"):
        Range(*bounds)
