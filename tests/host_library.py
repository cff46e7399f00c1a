"""The kernels' host build, made once for all worker processes of a test run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from innerq_export.integrations.build import build_library
from innerq_export.integrations.library import Library, load
from innerq_export.integrations.resolve import BUILD_DIR


@contextmanager
def host_folder() -> Iterator[Path]:
    """Yield its build folder to one process at a time: while one builds, another must neither build nor load."""
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    folder = BUILD_DIR.with_name("host")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        yield folder


def built_host_library() -> Library:
    """Build and load it."""
    with host_folder() as folder:
        return load("host", build_library(host_only=True, build_dir=folder, jobs=2).library)
