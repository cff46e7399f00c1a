from __future__ import annotations

import shutil

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def host_library():
    from innerq_export.integrations.build import build_library
    from innerq_export.integrations.library import load
    from innerq_export.integrations.resolve import BUILD_DIR

    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    return load("host", build_library(host_only=True, build_dir=BUILD_DIR.with_name("host"), jobs=2).library)
