"""The contract: what the InnerQ cache is. Pure Python, no torch."""

from innerq_export.spec.config import BITS, GROUP_SIZE, KEY_NORMS, MODES, SPEC_VERSION, CacheConfig
from innerq_export.spec.presets import DEFAULT_PRESET, PRESETS, preset, preset_name
from innerq_export.spec.sizes import (
    bits_per_value,
    blocks_of,
    fp16_kv_bytes_per_token,
    has_zeros,
    kv_bytes_per_token,
    record_bytes,
    window_bytes,
)

__all__ = [
    "BITS",
    "DEFAULT_PRESET",
    "GROUP_SIZE",
    "KEY_NORMS",
    "MODES",
    "PRESETS",
    "SPEC_VERSION",
    "CacheConfig",
    "bits_per_value",
    "blocks_of",
    "fp16_kv_bytes_per_token",
    "has_zeros",
    "kv_bytes_per_token",
    "preset",
    "preset_name",
    "record_bytes",
    "window_bytes",
]
