"""Versions from package metadata, under every name that a package goes by."""

from importlib import metadata

import pytest

from innerq_export.engine.versions import installed_versions, release, version_of


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.31.1", (1, 31)), ("11.4.0.106", (11, 4)), ("2.0rc1", (2, 0)), ("12", (12, 0)), ("1.32.0.dev2026", (1, 32))],
)
def test_release(version, expected):
    assert release(version) == expected


@pytest.mark.parametrize(
    ("installed", "package", "expected"),
    [
        ({"onnxruntime-gpu": "1.31.0"}, "onnxruntime", "1.31.0"),
        ({"tensorrt-cu12": "10.16.1"}, "tensorrt", "10.16.1"),
        ({"tensorrt": "11.4.0", "tensorrt-cu12": "10.16.1"}, "tensorrt", "11.4.0"),
        ({"tensorrt-rtx": "1.7.1"}, "tensorrt", None),
    ],
)
def test_the_same_module_under_another_name(monkeypatch, installed, package, expected):
    def version(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert version_of(package) == expected


def test_what_is_installed_is_listed():
    assert {"python", "onnxruntime", "numpy"} <= set(installed_versions())
