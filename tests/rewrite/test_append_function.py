"""InnerQAppend's body against the reference: equal bit for bit, whatever the mode, the lengths and the values."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from innerq_export.reference import append
from innerq_export.rewrite.functions import append_function
from innerq_export.rewrite.geometry import Geometry
from innerq_export.spec import BITS, KEY_NORMS, MODES, CacheConfig
from tests.rewrite.one_layer import Tokens, assert_same_cache, one_layer, walk

SMALL = CacheConfig(sink=3, recent=10)
CONSTANT_KEYS_SEED = 30
"""Groups of one value: hybrid scales of 0 whose sign says asymmetric."""
CALLS = ([(40, 25), (1, 1), (7, 33), (1, 0), (64, 3), (31, 90)], [(1, 1)] * 3 + [(70, 0), (0, 70), (33, 32)])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bits", BITS)
def test_every_mode_and_width_of_code(mode: str, bits: int) -> None:
    config = SMALL.replace(key_bits=bits, value_bits=bits, key_mode=mode, value_mode=mode)
    for calls in CALLS:
        assert walk(one_layer(config), calls, seed=bits) > 25.0


@pytest.mark.parametrize("key_norm", KEY_NORMS)
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.FLOAT])
def test_key_norm_and_activation_types(key_norm: str, dtype: ir.DataType) -> None:
    assert walk(one_layer(SMALL.replace(key_norm=key_norm, value_mode="hybrid"), dtype), CALLS[0]) > 25.0


@pytest.mark.parametrize(("sink", "recent", "prompt"), [(0, 0, 0), (0, 5, 0), (7, 0, 5), (5, 33, 30), (32, 96, 157)])
def test_one_token_at_a_time_crosses_every_boundary(sink: int, recent: int, prompt: int) -> None:
    single = [(1, 1)] * (sink + recent - prompt + 67)
    assert walk(one_layer(CacheConfig(sink=sink, recent=recent)), [(prompt, prompt), *single], capacity_blocks=3) > 25.0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=6), st.integers(0, 2**30))
def test_any_ragged_chunks(calls: list[tuple[int, int]], seed: int) -> None:
    assert walk(one_layer(SMALL), calls, capacity_blocks=16, seed=seed) > 25.0


CONFIGS = st.builds(
    CacheConfig,
    key_bits=st.sampled_from(BITS),
    value_bits=st.sampled_from(BITS),
    key_mode=st.sampled_from(MODES),
    value_mode=st.sampled_from(MODES),
    sink=st.integers(0, 40),
    recent=st.integers(0, 40),
    key_norm=st.sampled_from(KEY_NORMS),
)


@settings(max_examples=20, deadline=None)
@given(CONFIGS, st.sampled_from([32, 64, 128]), st.integers(1, 3), st.integers(0, 2**30))
def test_any_configuration(config: CacheConfig, head_dim: int, batch: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(0, 60, (5, batch))
    assert walk(one_layer(config, head_dim=head_dim), lengths.tolist(), capacity_blocks=10, seed=seed) > 25.0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(MODES), st.integers(0, 2**30))
@example("hybrid", CONSTANT_KEYS_SEED)
def test_values_that_tie_vanish_or_overflow_nearly(mode: str, seed: int) -> None:
    """Few distinct values per group: ties, zeros of both signs, subnormals, the largest fp16."""
    layer = one_layer(SMALL.replace(key_mode=mode, value_mode=mode, key_norm="none"))
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0, 6e-8, -6e-8, 3e-5, 30000.0, -30000.0], dtype=torch.float16)
    tokens = Tokens(layer.geometry, 90, [90, 77], 0)
    for name in ("key", "value"):
        few = special[torch.randint(len(special), (3,), generator=generator)]
        setattr(tokens, name, few[torch.randint(3, tokens.key.shape, generator=generator)])
    cache = layer.empty(2, 4)
    expected = append(cache, tokens.key, tokens.value, tokens.new_length_B)
    assert_same_cache(expected, layer.step(cache, tokens)[0], mode)


def test_cache_tensors_may_be_updated_in_place() -> None:
    """ONNX Runtime bound to the same memory for past and present gives what it gives with two copies."""
    layer = one_layer(SMALL.replace(value_mode="hybrid"))
    cache = layer.empty(2, 6)
    memory = {"window": cache.window_B2HkvWD, "key_norm": cache.key_norm_BHkvD, **cache.blocks.tensors()}
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(part.numpy().copy()) for name, part in memory.items()}
    for index, new_length in enumerate([(60, 41), (1, 1), (1, 0), (33, 70), (1, 1)]):
        tokens = Tokens(layer.geometry, max(new_length), new_length, index)
        binding = layer.session.io_binding()
        feeds = {"query": tokens.query, "key": tokens.key, "value": tokens.value}
        feeds |= {"past_length": cache.length_B, "new_length": tokens.new_length_B}
        for name, tensor in feeds.items():
            binding.bind_cpu_input(name, tensor.numpy())
        for name, value in values.items():
            binding.bind_ortvalue_input(f"past_{name}", value)
            binding.bind_ortvalue_output(f"present_{name}", value)
        binding.bind_output("output")
        layer.session.run_with_iobinding(binding)
        cache = layer.step(cache, tokens)[0]
        now = {"window": cache.window_B2HkvWD, "key_norm": cache.key_norm_BHkvD, **cache.blocks.tensors()}
        for name, value in values.items():
            assert np.array_equal(value.numpy(), now[name].numpy()), f"{name} after call {index}"


@pytest.mark.parametrize("past", [0, 10_000, 2**31 - 64, -5])
def test_lengths_beyond_capacity_read_and_write_nothing_outside(past: int) -> None:
    """The host refuses such calls before; the function must still stay inside its tensors."""
    layer = one_layer(SMALL)
    cache = dataclasses.replace(layer.empty(1, 2), length_B=torch.tensor([past], dtype=torch.int32))
    tokens = Tokens(layer.geometry, 50, [50], 0)
    tokens.new_length_B += 100
    got, output = layer.step(cache, tokens)
    assert got.blocks.capacity == 2
    assert torch.isfinite(output).all()


def test_half_precision_is_moved_and_cast_but_never_computed_with() -> None:
    """Around fp16 arithmetic ONNX Runtime drops casts, and with them the rounding of scales (see groups.py)."""
    moving = {"Cast", "Concat", "Gather", "GatherND", "ScatterND", "Reshape", "Split", "Squeeze", "Unsqueeze", "Where"}
    for mode in MODES:
        config = SMALL.replace(key_mode=mode, value_mode=mode)
        function = append_function(config, Geometry(4, 2, 64, 0.125, ir.DataType.FLOAT16))
        halves = [
            node for node in function if any(value and value.dtype == ir.DataType.FLOAT16 for value in node.inputs)
        ]
        assert {node.op_type for node in halves} - moving <= {"Shape", "Identity"}
        assert len(halves) > 10
