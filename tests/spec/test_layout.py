"""The packed record in Python: every bit has one place, sizes are those of SPEC, and the documented places hold."""

from __future__ import annotations

import numpy as np
import pytest

from innerq_export.spec import BITS, MODES, PRESETS, CacheConfig, record_bytes
from innerq_export.spec.layout import code_bits, key_scale_places, record_parts, value_scale_places

HEAD_DIMS = (64, 128, 256)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("kind", ["key", "value"])
def test_every_bit_of_the_codes_has_its_own_place(kind: str, bits: int, head_dim: int) -> None:
    places = code_bits(kind, bits, head_dim)
    assert places.shape == (bits, 32, head_dim)
    assert np.array_equal(np.sort(places.ravel()), np.arange(places.size))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_scale_has_its_own_place(head_dim: int) -> None:
    for places in (key_scale_places(head_dim), value_scale_places(head_dim)):
        assert np.array_equal(np.sort(places.ravel()), np.arange(head_dim))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("key_mode", MODES)
@pytest.mark.parametrize("value_mode", MODES)
def test_parts_fill_the_record_without_gaps(key_mode: str, value_mode: str, head_dim: int) -> None:
    config = CacheConfig(key_mode=key_mode, value_mode=value_mode)
    at = 0
    for part in record_parts(config, head_dim).values():
        assert part.offset == at and part.size % 16 == 0
        at += part.size
    assert at == record_bytes(config, head_dim)


def test_the_order_of_the_parts() -> None:
    """SPEC section 7; key zeros come last, so that records without them share their offsets."""
    both = CacheConfig(key_mode="asymmetric", value_mode="hybrid")
    codes_and_scales = ["key_codes", "key_scales", "value_codes", "value_scales"]
    assert list(record_parts(both, 64)) == [*codes_and_scales, "value_zeros", "key_zeros"]
    assert list(record_parts(PRESETS["base"], 64)) == codes_and_scales


def test_places_worked_out_by_hand_from_the_header() -> None:
    """Key token 9, channel 37, 3 bits, D 64: tile 1, g 1, lane 4, sub 1, cls 2, half 1; word 1 of the tile, bit 6.

    n = 1 * 3 + 1 = 4 opens the second run of words, 2 wide: word 128 + 2 * 4 = 136, high half: bit 22.
    Value token 30, channel 3, 3 bits: lane 3, sub 3, cls 3, half 0; word 2 of the tile, bits from 12: word 14, bit 12.
    """
    assert code_bits("key", 3, 64)[:, 9, 37].tolist() == [136 * 32 + 22 + i for i in range(3)]
    assert code_bits("value", 3, 64)[:, 30, 3].tolist() == [14 * 32 + 12 + i for i in range(3)]


def test_the_sixteenth_slot_is_split_over_three_words() -> None:
    """Class 2, sub 3 of 3-bit codes lives in the spare top bits: key token 24, channel 4 is lane 0's."""
    assert code_bits("key", 3, 64)[:, 24, 4].tolist() == [15, 32 + 15, 64 + 15]
