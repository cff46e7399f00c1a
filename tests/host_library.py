"""The kernels' host build, made once for all worker processes of a test run."""

from __future__ import annotations

from filelock import FileLock

from innerq_export.integrations.build import build_library
from innerq_export.integrations.library import Library, load
from innerq_export.integrations.resolve import BUILD_DIR


def built_host_library() -> Library:
    """Build and load it; while one process links, another must not load."""
    folder = BUILD_DIR.with_name("host")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        return load("host", build_library(host_only=True, build_dir=folder, jobs=2).library)
