"""CacheConfig: frozen, strict, versioned, through JSON and back; presets and the figures of SPEC section 6."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.errors import ConfigError
from innerq_export.spec import BITS, KEY_NORMS, MODES, PRESETS, CacheConfig, preset, preset_name

configs = st.builds(
    CacheConfig,
    key_bits=st.sampled_from(BITS),
    value_bits=st.sampled_from(BITS),
    key_mode=st.sampled_from(MODES),
    value_mode=st.sampled_from(MODES),
    sink=st.integers(0, 1 << 20),
    recent=st.integers(0, 1 << 20),
    key_norm=st.sampled_from(KEY_NORMS),
)


@given(configs)
def test_json_round_trip(config: CacheConfig) -> None:
    assert CacheConfig.from_json(config.to_json()) == config
    assert config.window_tokens == config.sink + config.recent + 32


def test_json_is_versioned_and_lists_every_field() -> None:
    fields = json.loads(CacheConfig().to_json())
    assert fields["spec_version"] == 1
    assert set(fields) == {field.name for field in dataclasses.fields(CacheConfig)}


def test_a_config_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CacheConfig().key_bits = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key_bits", 5),
        ("key_bits", 3.0),
        ("key_bits", True),
        ("value_bits", 16),
        ("key_mode", "symetric"),
        ("value_mode", None),
        ("group_size", 64),
        ("sink", -1),
        ("recent", 1 << 21),
        ("key_norm", "decode"),
        ("spec_version", 2),
    ],
)
def test_impossible_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"'{field}' cannot be {value!r}") as caught:
        CacheConfig(**{field: value})
    assert "expected:" in str(caught.value) and "fix:" in str(caught.value)


def test_a_misspelt_name_gets_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'symmetric_full'"):
        CacheConfig(value_mode="symetric_full")
    with pytest.raises(ConfigError, match="did you mean 'prefill'"):
        CacheConfig(key_norm="pre-fill")


def test_an_unknown_field_is_refused_with_the_nearest_known_name() -> None:
    """The published cache reads a misspelt option as 'no quantisation' (STYLE.md, habit 4)."""
    with pytest.raises(ConfigError, match=r"unknown field 'k_bits'(.|\n)*did you mean 'key_bits'"):
        CacheConfig.from_dict(CacheConfig().to_dict() | {"k_bits": 3})
    with pytest.raises(ConfigError, match="unknown field 'sinks'"):
        CacheConfig().replace(sinks=3)


@pytest.mark.parametrize("text", ["", "[1]", "3", '{"key_bits": 3}'])
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        CacheConfig.from_json(text)


def test_presets_have_names_and_differ() -> None:
    assert list(PRESETS) == ["balanced", "compact", "quality", "base", "small", "hybrid"]
    assert len(set(PRESETS.values())) == 6
    for name, config in PRESETS.items():
        assert preset(name) is config and preset_name(config) == name
        assert (config.group_size, config.sink, config.recent, config.key_norm) == (32, 32, 96, "prefill")
    assert preset_name(CacheConfig(sink=7)) == "custom"


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'balanced'"):
        preset("balance")
