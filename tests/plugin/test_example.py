"""The C++ example compiles against the headers, links with TensorRT's lean runtime, and fails with words."""

import shutil
import subprocess

import pytest

from tests.plugin.conftest import ROOT, headers, run


@pytest.fixture(scope="module")
def example(tmp_path_factory, lean):
    include = headers(11)
    if include is None:
        pytest.skip("no headers of TensorRT 11 (set TENSORRT_INCLUDE_DIR)")
    if shutil.which("nvcc") is None:
        pytest.skip("C++ example: no CUDA toolkit")
    folder = tmp_path_factory.mktemp("example")
    options = [f"-DTENSORRT_INCLUDE_DIR={include}", f"-DTENSORRT_LIBRARY={lean}", "-DCMAKE_CXX_FLAGS=-Werror"]
    run("cmake", "-S", ROOT / "examples" / "tensorrt_decode", "-B", folder, *options)
    run("cmake", "--build", folder)
    return folder / "tensorrt_decode"


def decode(example, *arguments):
    return subprocess.run([example, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_usage(example):
    result = decode(example)
    assert result.returncode == 2 and "usage: tensorrt_decode FOLDER COUNT ID..." in result.stderr


def test_a_missing_engine_names_the_command_that_makes_one(example, tmp_path):
    result = decode(example, tmp_path, 3, 1, 2)
    assert result.returncode == 1
    assert "model.engine" in result.stderr and "innerq-export build --backend tensorrt" in result.stderr


def test_a_missing_plugin_is_named(example, tmp_path):
    (tmp_path / "model.engine").write_bytes(b"engine")
    assert "no " + str(tmp_path / "libinnerq_trt.so") in decode(example, tmp_path, 3, 1, 2).stderr


def test_a_broken_engine_ends_with_a_message(example, built, tmp_path):
    (tmp_path / "model.engine").write_bytes(b"engine")
    shutil.copy(built.library, tmp_path / "libinnerq_trt.so")
    result = decode(example, tmp_path, 3, 1, 2)
    assert result.returncode == 1
    assert "no CUDA card" in result.stderr or "built for another TensorRT" in result.stderr
