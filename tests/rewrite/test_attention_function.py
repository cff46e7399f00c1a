"""InnerQAttention's body against the reference, within the tolerance of the op table for every head and token."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch

from innerq_export.reference import append, attend
from innerq_export.spec import MODES, CacheConfig
from innerq_export.spec.ops import ATTENTION
from tests.rewrite.one_layer import TORCH, OneLayer, Tokens, one_layer, signal_to_noise_db, walk

SMALL = CacheConfig(sink=3, recent=10)
CALLS = [(90, 25), (1, 1), (17, 66), (1, 0), (1, 3)]


def floor_db(dtype: ir.DataType) -> float:
    return ATTENTION.tolerance.min_db[str(TORCH[dtype]).removeprefix("torch.")]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.FLOAT])
def test_products_in_fp32(mode: str, dtype: ir.DataType) -> None:
    config = SMALL.replace(key_mode=mode, value_mode=mode, value_bits=2)
    assert walk(one_layer(config, dtype), CALLS) > floor_db(dtype)


@pytest.mark.parametrize("mode", MODES)
def test_the_attention_flavour_is_the_same_sum(mode: str) -> None:
    config = SMALL.replace(key_mode=mode, value_mode=mode)
    assert walk(one_layer(config, ir.DataType.FLOAT, "attention"), CALLS) > floor_db(ir.DataType.FLOAT)


def test_the_attention_flavour_in_half_precision() -> None:
    """Keys times lambda are rounded to fp16 there: about 2^-11 of each score, and scores here reach 100."""
    assert walk(one_layer(SMALL, ir.DataType.FLOAT16, "attention"), CALLS) > 25.0


@pytest.mark.parametrize("head_dim", [32, 128])
def test_other_head_dims(head_dim: int) -> None:
    assert walk(one_layer(SMALL, head_dim=head_dim), CALLS) > floor_db(ir.DataType.FLOAT16)


def test_a_row_sees_no_later_token_and_no_padding() -> None:
    """Changing what a row must not see changes nothing in it, to the last bit."""
    layer = one_layer(SMALL)
    past = layer.step(layer.empty(2, 4), Tokens(layer.geometry, 80, [80, 60], 1))[0]
    tokens = Tokens(layer.geometry, 9, [9, 4], 2)
    before = layer.step(past, tokens)[1]
    tokens.key[0, :, 6:], tokens.value[0, :, 6:] = 3.0, -3.0
    tokens.key[1, :, 4:], tokens.value[1, :, 4:] = 3.0, -3.0
    after = layer.step(past, tokens)[1]
    assert torch.equal(before[0, :, :6], after[0, :, :6])
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0, :, 6:], after[0, :, 6:])


def test_scale_is_the_given_one() -> None:
    sharp = OneLayer(SMALL, one_layer(SMALL).geometry.__class__(4, 2, 64, 0.3, ir.DataType.FLOAT))
    tokens = Tokens(sharp.geometry, 40, [40, 40], 3)
    cache = sharp.empty(2, 2)
    expected = append(cache, tokens.key, tokens.value, tokens.new_length_B)
    output = sharp.step(cache, tokens)[1]

    def against(scale: float | None) -> float:
        arguments = (tokens.query, tokens.key, tokens.value, cache.length_B, tokens.new_length_B, scale)
        return signal_to_noise_db(attend(expected, *arguments), output)

    assert against(0.3) > floor_db(ir.DataType.FLOAT)
    assert against(None) < 20
