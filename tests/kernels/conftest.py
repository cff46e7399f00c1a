"""`kernels`: the C ABI on the host build, and (marker gpu) on the CUDA build; every test that takes it runs on both."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from innerq_export.integrations.library import Library, load
from tests.host_library import built_host_library

torch.set_num_threads(1)


@dataclass(frozen=True)
class Kernels:
    library: Library
    device: str


@pytest.fixture(scope="session")
def host_kernels() -> Kernels:
    return Kernels(built_host_library(), "cpu")


@pytest.fixture(scope="session")
def gpu_kernels() -> Kernels:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA card")
    return Kernels(load("cuda"), "cuda")


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return request.getfixturevalue(f"{request.param}_kernels")
