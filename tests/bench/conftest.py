from __future__ import annotations

import pytest
import torch

from tests.host_library import built_host_library

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def host_library():
    return built_host_library()
