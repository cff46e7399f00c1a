"""Builds the plugin's host library and the program that drives it, once per TensorRT version whose headers are here."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from innerq_export.spec import CacheConfig
from tests.plugin.host import PluginHost

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    11: ("/usr/local/tensorrt/include", "/usr/include/x86_64-linux-gnu"),
    10: ("/usr/local/tensorrt-10/include",),
}


@dataclass(frozen=True)
class Built:
    """What a build made: the plugin library and the program for it."""

    library: Path
    program: Path
    headers: Path


def headers(major: int) -> Path | None:
    """Return the folder with the headers of TensorRT `major`, or None. TENSORRT_INCLUDE_DIR excludes other places."""
    named = os.environ.get("TENSORRT_INCLUDE_DIR")
    for place in map(Path, [named] if named else PLACES[major]):
        version = place / "NvInferVersion.h"
        if version.is_file() and f"ENTERPRISE {major}\n" in version.read_text():
            return place
    return None


SANITISERS = "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all -O1"


def build(factory: pytest.TempPathFactory, name: str, major: int, *, cuda: bool = False, flags: str = "") -> Built:
    """Build once for all processes of a parallel run: the first to come builds, the others wait."""
    shared = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_alone(shared / name, major, cuda=cuda, flags=flags)


def build_alone(folder: Path, major: int, *, cuda: bool, flags: str) -> Built:
    found = headers(major)
    if found is None:
        pytest.skip(f"no headers of TensorRT {major} (set TENSORRT_INCLUDE_DIR)")
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no cmake or no C++ compiler")
    options = [f"-DTENSORRT_INCLUDE_DIR={found}", f"-DINNERQ_CUDA={'ON' if cuda else 'OFF'}"]
    options += ["-DCMAKE_BUILD_TYPE=Release", *(["-DCMAKE_CUDA_ARCHITECTURES=native"] if cuda else [])]
    options += [f"-DCMAKE_CXX_FLAGS={flags}"] if flags else []
    for source, name in ((ROOT / "plugins", "library"), (ROOT / "tests" / "plugin" / "driver", "program")):
        run("cmake", "-S", source, "-B", folder / name, *options)
        run("cmake", "--build", folder / name, "--parallel", str(os.cpu_count() or 1))
    library = "libinnerq_trt.so" if cuda else "libinnerq_trt_host.so"
    return Built(folder / "library" / library, folder / "program" / "plugin_host", found)


def run(*command: object) -> None:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Built:
    return build(tmp_path_factory, "plugin11", 11)


@pytest.fixture(scope="session")
def built_for_10(tmp_path_factory) -> Built:
    return build(tmp_path_factory, "plugin10", 10)


@pytest.fixture(scope="session", params=[11, 10])
def host(request):
    """A host with the library loaded, for each TensorRT version."""
    yield from drive(request.getfixturevalue("built" if request.param == 11 else "built_for_10"))


def cuda_library() -> Path:
    """Return the library with the kernels: INNERQ_PLUGIN_LIBRARY, or what `innerq-export plugin build` made."""
    library = Path(os.environ.get("INNERQ_PLUGIN_LIBRARY", ROOT / "build" / "plugins" / "libinnerq_trt.so"))
    if not library.is_file():
        pytest.skip("the CUDA library in TensorRT's registry: not built (innerq-export plugin build)")
    return library


def gpu_build(factory: pytest.TempPathFactory) -> Built:
    """Return the CUDA build; INNERQ_PLUGIN_LIBRARY and INNERQ_PLUGIN_PROGRAM name one made elsewhere."""
    if not cuda_card():
        pytest.skip("GPU part: no CUDA card")
    named = [os.environ.get(name) for name in ("INNERQ_PLUGIN_LIBRARY", "INNERQ_PLUGIN_PROGRAM")]
    if all(named):
        return Built(Path(named[0]), Path(named[1]), Path())
    return build(factory, "plugin_gpu", 11, cuda=True)


def cuda_card() -> bool:
    import torch

    return torch.cuda.is_available()


def drive(made: Built) -> Iterator[PluginHost]:
    driver = PluginHost(made.program)
    driver.ok("load", made.library)
    yield driver
    assert driver.close() == 0


@pytest.fixture(scope="session")
def hardened(tmp_path_factory) -> Iterator[PluginHost]:
    """A driver that, like the library, is built with the address and undefined-behaviour sanitisers."""
    yield from drive(build(tmp_path_factory, "plugin_sanitised", 11, flags=SANITISERS))


@pytest.fixture(scope="session")
def gpu_built(tmp_path_factory) -> Built:
    return gpu_build(tmp_path_factory)


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request):
    """A driver whose memory is the host's or the GPU's: what runs on it runs on both."""
    yield from drive(request.getfixturevalue("built" if request.param == "host" else "gpu_built"))


@pytest.fixture
def gpu(gpu_built):
    """A driver on the GPU alone."""
    yield from drive(gpu_built)


@pytest.fixture(scope="session")
def lean() -> Path:
    """The library of TensorRT's lean runtime, which holds the real plugin registry."""
    package = pytest.importorskip("tensorrt_lean_libs", reason="tensorrt-lean is not installed")
    return next(Path(package.__path__[0]).glob("libnvinfer_lean.so.*"))


@pytest.fixture(scope="session")
def plugin_onnx(tiny_graph, tmp_path_factory):
    """A tiny decoder in the plugin lowering, as OnnxModel."""
    from innerq_export.onnx_io import save_onnx
    from innerq_export.rewrite import rewrite

    model, _ = rewrite(tiny_graph, CacheConfig(), "plugin")
    folder = tmp_path_factory.mktemp("plugin_onnx") / "onnx"
    return save_onnx(model, folder, graph=tiny_graph, cache=CacheConfig(), lowering="plugin")
