"""GPU memory: the cache is byte for byte what a session allocates, and the limits are the very last that fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.artifacts import ModelShape
from innerq_export.engine.profiles import capacity_blocks
from innerq_export.plan.gpu import GpuModel, block_bytes
from innerq_export.spec import PRESETS, CacheConfig, preset, record_bytes

SHAPE = ModelShape(layers=16, heads=32, kv_heads=8, head_dim=64, vocab=1000, max_positions=131072)
CONFIG = {"hidden_size": 2048, "intermediate_size": 8192}


def model(backend="tensorrt", cache=None, shape=SHAPE):
    return GpuModel(shape, CONFIG, cache or CacheConfig(), backend, 2_500_000_000, 2, all_logits=False)


def test_the_cache_is_what_a_session_allocates(tiny_engine):
    from innerq_export.runtime.session import OnnxRuntimeSession

    session = OnnxRuntimeSession(tiny_engine, batch=3, allow_unready=True)
    ours = model("onnxruntime", session.manifest.cache, session.manifest.model).at(3, 500)
    assert ours.cache + ours.window == session._allocate(capacity_blocks(session.manifest.cache, 500)).nbytes


@pytest.mark.parametrize("name", PRESETS)
def test_logical_blocks_hold_a_byte_per_code_and_the_same_scales(name):
    cache = preset(name)
    codes = (cache.key_bits + cache.value_bits) * 32 * 64 // 8
    assert block_bytes(cache, 64, packed=False) - 2 * 32 * 64 == record_bytes(cache, 64) - codes


@given(st.integers(3, 200), st.integers(1, 64))
def test_the_longest_context_is_the_last_that_fits(gigabytes, batch):
    memory, ours = gigabytes * 10**9, model()
    longest = ours.longest_context(memory, batch)
    assert longest == 0 or ours.at(batch, longest).total <= memory
    assert longest == SHAPE.max_positions or ours.at(batch, longest + 1).total > memory


@given(st.integers(3, 200), st.integers(1, 131072))
def test_the_largest_batch_is_the_last_that_fits(gigabytes, context):
    memory, ours = gigabytes * 10**9, model("tensorrt-rtx")
    largest = ours.largest_batch(memory, context)
    assert largest == 0 or ours.at(largest, context).total <= memory
    assert largest == 1 << 16 or ours.at(largest + 1, context).total > memory


def test_nothing_fits_on_a_card_smaller_than_the_weights():
    assert model().longest_context(2_400_000_000, 1) == 0
    assert model().largest_batch(2_400_000_000, 32) == 0
