"""Sizes that follow from a cache configuration (SPEC sections 2, 6, 7)."""

from __future__ import annotations

from innerq_export.spec.config import GROUP_SIZE, CacheConfig

HALF_BYTES = 2
_WITH_ZEROS = ("asymmetric", "hybrid")


def has_zeros(mode: str) -> bool:
    """Whether groups of this mode store a zero point beside the scale."""
    return mode in _WITH_ZEROS


def bits_per_value(bits: int, mode: str) -> float:
    """Return code bits plus the share of the fp16 scale (and zero) of a group: 3-bit symmetric is 3.5."""
    return bits + (16.0 * (2 if has_zeros(mode) else 1)) / GROUP_SIZE


def record_bytes(config: CacheConfig, head_dim: int) -> int:
    """Return the bytes of one packed record: 32 tokens of keys and values of one KV head."""
    key_bits = bits_per_value(config.key_bits, config.key_mode)
    value_bits = bits_per_value(config.value_bits, config.value_mode)
    return int((key_bits + value_bits) * GROUP_SIZE * head_dim / 8)


def window_bytes(config: CacheConfig, head_dim: int) -> int:
    """Return the bytes of the full-precision window of one layer, KV head and sequence, whatever its length."""
    return 2 * config.window_tokens * head_dim * HALF_BYTES


def kv_bytes_per_token(config: CacheConfig, layers: int, kv_heads: int, head_dim: int) -> float:
    """Return the bytes that one more quantised token costs over all layers and KV heads."""
    return record_bytes(config, head_dim) / GROUP_SIZE * layers * kv_heads


def fp16_kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int) -> int:
    """Return what a token costs in a plain fp16 cache: the figure ours is held against."""
    return 2 * layers * kv_heads * head_dim * HALF_BYTES


def blocks_of(config: CacheConfig, length: int) -> int:
    """Return q(n), the number of quantised blocks of a sequence of `length` tokens (SPEC section 2)."""
    return max(0, (length - config.sink - config.recent) // GROUP_SIZE)
