"""Sizes against the figures that SPEC states."""

from __future__ import annotations

import pytest

from innerq_export.spec import (
    PRESETS,
    CacheConfig,
    bits_per_value,
    blocks_of,
    fp16_kv_bytes_per_token,
    kv_bytes_per_token,
    record_bytes,
    window_bytes,
)

LLAMA_3_1_8B = {"layers": 32, "kv_heads": 8, "head_dim": 128}
# SPEC section 6: bits per key and value, bytes per token of Llama-3.1-8B
TABLE = {
    "balanced": (3.5, 3.5, 28_672),
    "compact": (3.5, 2.5, 24_576),
    "quality": (4.5, 4.5, 36_864),
    "base": (3.5, 3.5, 28_672),
    "small": (3.5, 2.5, 24_576),
    "hybrid": (3.5, 3.0, 26_624),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_presets(name: str) -> None:
    config = PRESETS[name]
    key = bits_per_value(config.key_bits, config.key_mode)
    value = bits_per_value(config.value_bits, config.value_mode)
    assert (key, value, kv_bytes_per_token(config, **LLAMA_3_1_8B)) == TABLE[name]


def test_the_fp16_cache_it_is_held_against() -> None:
    assert fp16_kv_bytes_per_token(**LLAMA_3_1_8B) == 131_072


def test_a_base_record_at_head_dim_128() -> None:
    assert record_bytes(PRESETS["base"], 128) == 3_584


def test_the_window() -> None:
    assert window_bytes(CacheConfig(), 128) == 2 * 160 * 128 * 2


@pytest.mark.parametrize(
    ("length", "blocks"), [(0, 0), (127, 0), (128, 0), (159, 0), (160, 1), (191, 1), (192, 2), (1_000_000, 31_246)]
)
def test_blocks_of_a_length(length: int, blocks: int) -> None:
    assert blocks_of(CacheConfig(), length) == blocks
