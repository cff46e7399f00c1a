from __future__ import annotations

import pytest
import torch

from innerq_export.integrations.library import load
from tests.host_library import built_host_library

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def host_library():
    return built_host_library()


@pytest.fixture(scope="session")
def cuda_library():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA card")
    return load("cuda")


@pytest.fixture
def new_tokens():
    def make(batch=2, heads=2, tokens=3, head_dim=64, seed=0, dtype=torch.float16):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, heads, tokens, head_dim, generator=generator).to(dtype)

    return make
