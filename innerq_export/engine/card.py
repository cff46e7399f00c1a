"""The NVIDIA card of this machine, asked from the driver itself: neither torch nor TensorRT is needed for it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""


@dataclass(frozen=True)
class Card:
    """A card: its name, its compute capability such as '9.0', and the CUDA version of its driver such as '13.0'."""

    name: str
    compute_capability: str
    driver_cuda: str


def first_card() -> Card | None:
    """Return the first card that this process may use (CUDA_VISIBLE_DEVICES counts), or None."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    driver.cuDeviceGetName(name, len(name), device)
    capability = f"{_attribute(driver, _MAJOR, device)}.{_attribute(driver, _MINOR, device)}"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return Card(name.value.decode(), capability, f"{version.value // 1000}.{version.value % 1000 // 10}")


def _attribute(driver: Any, number: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
    return value.value
