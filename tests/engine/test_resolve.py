"""Every refusal says why and what to install."""

import pytest

from innerq_export.engine import AUTO, BuildOptions, refusals, resolve
from innerq_export.engine import tensorrt as tensorrt_module
from innerq_export.engine import tensorrt_rtx as rtx_module
from innerq_export.engine.card import Card
from innerq_export.errors import ConfigError, EnvironmentMismatchError


def pretend(monkeypatch, module, version):
    monkeypatch.setattr(module, "version_of", lambda package: version)


def test_auto_takes_rtx_where_it_is_installed_and_onnxruntime_elsewhere(monkeypatch):
    pretend(monkeypatch, rtx_module, "1.7.1.116")
    assert resolve(AUTO).name == "tensorrt-rtx"
    pretend(monkeypatch, rtx_module, None)
    assert resolve(AUTO).name == "onnxruntime"


def test_without_tensorrt_it_says_what_to_install(monkeypatch):
    pretend(monkeypatch, tensorrt_module, None)
    message = r"tensorrt 10\.16 to 11\.x(.|\n)*not installed(.|\n)*pip install 'innerq-export\[tensorrt\]'"
    with pytest.raises(EnvironmentMismatchError, match=message) as caught:
        resolve("tensorrt")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("version", "fits"), [("10.15.1", False), ("10.16.0", True), ("11.4.0.106", True), ("12.0", False)]
)
def test_tensorrt_releases(monkeypatch, version, fits):
    pretend(monkeypatch, tensorrt_module, version)
    monkeypatch.setattr(tensorrt_module, "first_card", lambda: Card("a card", "9.0", "13.0"))
    assert (refusals()["tensorrt"] is None) == fits


def test_tensorrt_without_a_card_builds_nothing(monkeypatch):
    pretend(monkeypatch, tensorrt_module, "11.4.0")
    monkeypatch.setattr(tensorrt_module, "first_card", lambda: None)
    with pytest.raises(EnvironmentMismatchError, match="no NVIDIA card"):
        resolve("tensorrt")


def test_an_old_rtx_is_refused_with_its_version(monkeypatch):
    pretend(monkeypatch, rtx_module, "1.6.2")
    with pytest.raises(EnvironmentMismatchError, match=r"1\.6\.2 is older than 1\.7"):
        resolve("tensorrt-rtx")


def test_options_are_checked_before_anything_is_built(monkeypatch):
    pretend(monkeypatch, tensorrt_module, "11.4.0")
    monkeypatch.setattr(tensorrt_module, "first_card", lambda: Card("a card", "9.0", "13.0"))
    with pytest.raises(EnvironmentMismatchError, match="innerq-export plugin build"):
        resolve("tensorrt", BuildOptions())
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(ConfigError, match=r"12\.0(.|\n)*9\.0"):
        resolve("tensorrt-rtx", BuildOptions(compute_capabilities=("8.9", "9.0")))
    assert resolve("tensorrt-rtx", BuildOptions(compute_capabilities=("8.9", "12.0"))).name == "tensorrt-rtx"


def test_a_typo_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'onnxruntime'"):
        resolve("onnxrntime")
