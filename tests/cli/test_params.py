"""Sizes, MODEL and cache fields as words of the command line."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.cli.params import SIZE, cache_config, model_option
from innerq_export.errors import ConfigError
from innerq_export.spec import PRESETS


@given(
    st.integers(1, 1 << 20), st.sampled_from([("", 1), ("K", 1 << 10), ("k", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)])
)
def test_sizes_take_units(count, unit):
    assert SIZE.convert(f"{count}{unit[0]}", None, None) == count * unit[1]


@pytest.mark.parametrize("text", ["", "K", "0", "-1", "3.5K", "12T", "1 K", "٣"])
def test_no_size(text):
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize("words", [[], ["a", "--model", "b"]])
def test_the_model_is_named_once(words):
    @click.command()
    @model_option
    def command(model):
        return model

    with pytest.raises(click.UsageError):
        command.main(words, standalone_mode=False)
    assert command.main(["a"], standalone_mode=False) == "a"
    assert command.main(["--model", "a"], standalone_mode=False) == "a"


def test_fields_change_a_preset():
    assert cache_config("base", ("sink=64", "key_norm=none")) == PRESETS["base"].replace(sink=64, key_norm="none")
    with pytest.raises(click.BadParameter):
        cache_config("base", ("sink",))
    with pytest.raises(ConfigError, match="key_bits"):
        cache_config("base", ("key_bits=5",))
