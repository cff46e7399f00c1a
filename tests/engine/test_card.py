"""What the driver says of the card, on a driver that answers as CUDA's documentation has it."""

import ctypes

import pytest

from innerq_export.engine import card as card_module
from innerq_export.engine.card import Card, first_card


class Driver:
    """Answers of libcuda: 0 is success, 100 is CUDA_ERROR_NO_DEVICE."""

    def __init__(self, status=0):
        self.status = status

    def cuInit(self, flags):
        return 0

    def cuDeviceGet(self, device, ordinal):
        return self.status

    def cuDeviceGetName(self, name, length, device):
        name.value = b"NVIDIA L4"

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 8, 76: 9}[attribute]

    def cuDriverGetVersion(self, version):
        version._obj.value = 12080


@pytest.mark.parametrize(("status", "found"), [(0, Card("NVIDIA L4", "8.9", "12.8")), (100, None)])
def test_the_first_card(monkeypatch, status, found):
    monkeypatch.setattr(card_module.ctypes, "CDLL", lambda name: Driver(status))
    assert first_card() == found


def test_without_a_driver_there_is_none(monkeypatch):
    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert first_card() is None
