"""What this machine has left: main memory and disk."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Return the bytes of main memory that a new program can have, the container's limit included; None if unknown."""
    found = [size for size in (_from_meminfo(), _from_group()) if size is not None]
    return min(found, default=None)


def existing_parent(path: Path) -> Path:
    """Return `path` or the nearest folder above it that exists."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.is_dir())


def free_disk(path: Path) -> int:
    """Return the free bytes of the disk on which `path` is or would be."""
    return shutil.disk_usage(existing_parent(path)).free


def same_disk(file: Path, folder: Path) -> bool:
    """Tell whether `file` and `folder`, neither of which need exist yet, are on one disk, as hard links must be."""
    return os.stat(existing_parent(file)).st_dev == os.stat(existing_parent(folder)).st_dev


def _from_meminfo() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _from_group() -> int | None:
    """Control groups v2, as containers have them: limit less what is in use."""
    try:
        limit, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() else None
