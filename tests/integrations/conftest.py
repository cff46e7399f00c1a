from __future__ import annotations

import pytest
import torch

from innerq_export.spec import CacheConfig

torch.set_num_threads(1)

SMALL = CacheConfig(sink=4, recent=8)


@pytest.fixture(scope="session")
def host_library():
    from innerq_export.errors import EnvironmentMismatchError
    from innerq_export.integrations.library import load

    try:
        return load("host")
    except EnvironmentMismatchError:
        from innerq_export.integrations.build import build_library

        return load("host", build_library(host_only=True).library)


@pytest.fixture
def new_tokens():
    def make(batch=2, heads=2, tokens=3, head_dim=64, seed=0, dtype=torch.float16):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, heads, tokens, head_dim, generator=generator).to(dtype)

    return make
