"""The six presets of SPEC section 6: three of ours, three of the paper (arXiv 2602.23200)."""

from __future__ import annotations

from innerq_export.errors import ConfigError, nearest
from innerq_export.spec.config import CacheConfig

DEFAULT_PRESET = "balanced"

PRESETS: dict[str, CacheConfig] = {
    "balanced": CacheConfig(),
    "compact": CacheConfig(value_bits=2),
    "quality": CacheConfig(key_bits=4, value_bits=4),
    "base": CacheConfig(key_mode="symmetric", value_mode="symmetric"),
    "small": CacheConfig(key_mode="symmetric", value_bits=2, value_mode="symmetric"),
    "hybrid": CacheConfig(key_mode="symmetric", value_bits=2, value_mode="hybrid"),
}


def preset(name: str) -> CacheConfig:
    """Return the preset of this name; ConfigError names the nearest one otherwise."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset '{name}'", expected=", ".join(PRESETS), got=name, fix=nearest(name, PRESETS))
    return PRESETS[name]


def preset_name(config: CacheConfig) -> str:
    """Return the name of the preset equal to `config`, or 'custom'."""
    return next((name for name, known in PRESETS.items() if known == config), "custom")
