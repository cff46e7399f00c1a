"""Ring 1 alone: fp16 and bf16 conversions against numpy and torch, and the two twins of the record layout."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from innerq_export.integrations.resolve import SOURCES
from innerq_export.spec import BITS
from innerq_export.spec.layout import code_bits


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    library = tmp_path_factory.mktemp("ring1") / "probe.so"
    source = Path(__file__).with_name("ring1_probe.cpp")
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["c++", *flags, f"-I{SOURCES / 'include'}", str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def call(function, source: np.ndarray, to: np.dtype) -> np.ndarray:
    result = np.empty(source.shape, to)
    pointer = ctypes.c_void_p
    function(pointer(source.ctypes.data), pointer(result.ctypes.data), ctypes.c_int64(source.size))
    return result


def hard_floats() -> np.ndarray:
    """Every fp16 number, every midpoint of two, the floats beside those, and random bits."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[1:] + halves[:-1]) / 2
    exact = np.concatenate([halves, middles, [65519.996, 65520.0, 1e30, np.inf]]).astype(np.float32)
    beside = [np.nextafter(exact, np.float32(side)) for side in (-np.inf, np.inf)]
    random = np.random.default_rng(0).integers(0, 0x7F800000, 1 << 18, dtype=np.uint32).view(np.float32)
    positive = np.concatenate([exact, *beside, random])
    return np.concatenate([positive, -positive])


def test_fp16_conversions_are_ieee(probe):
    x = hard_floats()
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).view(np.uint16)
    assert np.array_equal(call(probe.probe_to_half, x, np.dtype(np.uint16)), expected)
    halves = np.arange(1 << 16, dtype=np.uint16)
    back = call(probe.probe_from_half, halves, np.dtype(np.float32))
    assert np.array_equal(back, halves.view(np.float16).astype(np.float32), equal_nan=True)


def test_bf16_conversion_is_torchs(probe):
    x = hard_floats()
    expected = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(call(probe.probe_to_bfloat, x, np.dtype(np.uint16)), expected)


@pytest.mark.parametrize("kind", ["key", "value"])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_the_cuda_and_the_python_layout_are_one(probe, kind, bits, head_dim):
    places = np.empty((bits, 32, head_dim), np.int64)
    probe.probe_code_bits(int(kind == "key"), bits, head_dim, ctypes.c_void_p(places.ctypes.data))
    assert np.array_equal(places, code_bits(kind, bits, head_dim))
    assert np.array_equal(np.sort(places, axis=None), np.arange(places.size))
