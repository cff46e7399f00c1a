"""Sizes, MODEL and cache fields as words of the command line."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.cli.params import RESULT_FILE, RESULT_FOLDER, SIZE, cache_config, model_option
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


@pytest.mark.parametrize("words", [[], ["a", "--model", "b"], [""], ["--model", ""]])
def test_the_model_is_named_once(words):
    @click.command()
    @model_option
    def command(model):
        return model

    with pytest.raises(click.UsageError):
        command.main(words, standalone_mode=False)
    assert command.main(["a"], standalone_mode=False) == "a"
    assert command.main(["--model", "a"], standalone_mode=False) == "a"


@pytest.mark.parametrize("kind", [RESULT_FILE, RESULT_FOLDER])
def test_a_result_is_refused_before_the_work_where_it_cannot_be_written(kind, tmp_path, monkeypatch):
    assert kind.convert(str(tmp_path / "new folder" / "x"), None, None) == tmp_path / "new folder" / "x"
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"/proc/none/x cannot be written\n.*got: .*/proc: .*\n.*fix"):
        kind.convert("/proc/none/x", None, None)


def test_a_result_that_is_there_keeps_what_it_holds(tmp_path):
    (tmp_path / "plan.json").write_text("old")
    assert RESULT_FILE.convert(str(tmp_path / "plan.json"), None, None) == tmp_path / "plan.json"
    assert (tmp_path / "plan.json").read_text() == "old"
    with pytest.raises(ConfigError, match=r"plan\.json: Not a directory"):
        RESULT_FILE.convert(str(tmp_path / "plan.json" / "x"), None, None)


def test_fields_change_a_preset():
    assert cache_config("base", ("sink=64", "key_norm=none")) == PRESETS["base"].replace(sink=64, key_norm="none")
    with pytest.raises(click.BadParameter):
        cache_config("base", ("sink",))
    with pytest.raises(ConfigError, match="key_bits"):
        cache_config("base", ("key_bits=5",))
