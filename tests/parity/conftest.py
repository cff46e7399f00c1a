"""PyTorch's side of the tiny model that all tests share, and its engine folder."""

from __future__ import annotations

import pytest
import torch

from innerq_export.parity.torch_model import TorchModel


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def torch_model(tiny_checkpoint) -> TorchModel:
    return TorchModel(tiny_checkpoint.folder, "float16")
