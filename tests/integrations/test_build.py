"""`plugin build` without a compiler: progress, missing tools, architectures, failures. Real builds: the fixtures."""

from __future__ import annotations

import stat

import pytest

from innerq_export.errors import ConfigError, EnvironmentMismatchError, UserError
from innerq_export.integrations import build, toolchain


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[3/25] Building CUDA object x/attend.cu.o\n", (0.12, "attend.cu.o")),
        ("[ 50%] Building CXX object launch/api.cpp.o\n", (0.5, "api.cpp.o")),
        ("[100%] Built target innerq\n", (1.0, "Built target innerq")),
        ("-- Configuring done\n", None),
        ("warning: [3 things]\n", None),
    ],
)
def test_progress_of_ninja_and_make(line, expected):
    assert build.parse_progress(line) == expected


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine with no tools but those that `tool` makes."""
    for name in ("CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(toolchain, "DEFAULT_CUDA", tmp_path / "cuda")

    def tool(name, script):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return tool


def test_missing_tools_say_what_to_install(bare):
    with pytest.raises(EnvironmentMismatchError, match="pip install 'cmake"):
        build.build_library(host_only=True)
    bare("cmake", "exit 0")
    with pytest.raises(EnvironmentMismatchError, match=r"(?s)nvcc.*CUDA toolkit.*--host-only"):
        build.build_library()


def test_architectures_are_checked_against_nvcc(bare):
    nvcc = bare("nvcc", "echo compute_75; echo compute_90; echo compute_120")
    assert toolchain.choose_architectures(("90", "sm_120"), nvcc) == [90, 120]
    assert toolchain.choose_architectures(("7.5",), nvcc) == [75]
    for wrong in ("70", "100", "ninety"):
        with pytest.raises(ConfigError, match="--arch"):
            toolchain.choose_architectures((wrong,), nvcc)
    with pytest.raises(EnvironmentMismatchError, match="no NVIDIA card"):
        toolchain.choose_architectures((), nvcc)
    bare("nvidia-smi", "echo 9.0; echo 9.0")
    assert toolchain.choose_architectures((), nvcc) == [90]
    assert toolchain.choose_architectures(("native", "120"), nvcc) == [90, 120]


def test_a_failed_compile_shows_the_first_error_and_the_log(bare, tmp_path):
    bare("cmake", 'case $1 in --build) echo "[1/2] a"; echo "x.cu(3): error: no such thing"; exit 2;; esac')
    with pytest.raises(UserError, match=r"(?s)compiling.*exit code 2.*no such thing.*build.log"):
        build.build_library(host_only=True, build_dir=tmp_path / "out")


def test_tensorrt_headers_must_be_there(bare, tmp_path):
    bare("cmake", "exit 0")
    bare("nvcc", "echo compute_90")
    with pytest.raises(ConfigError, match=r"NvInfer\.h"):
        build.build_library(("90",), build_dir=tmp_path / "out", tensorrt_include=tmp_path)


def test_cancelling_stops_the_compilers(bare, tmp_path):
    bare("cmake", 'case $1 in --build) echo "[1/2] a"; exec /bin/sleep 60;; esac')

    class Cancel:
        def stage(self, name):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def advance(self, fraction, note=""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build.build_library(host_only=True, build_dir=tmp_path / "out", progress=Cancel())
