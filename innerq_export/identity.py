"""What a result depends on besides its inputs: our own source, the versions of others, and which bytes a file holds."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


@functools.cache
def code_digest() -> str:
    """Return SHA-256 over every source file of this package, over Python's version and the kind of machine."""
    total = hashlib.sha256(f"{platform.python_version()} {platform.machine()}".encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        total.update(f"\0{path.relative_to(_PACKAGE).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def versions_of(*packages: str) -> dict[str, str | None]:
    """Return the installed version of each package, None where it is not installed. Nothing is imported."""
    return {package: _version(package) for package in packages}


def file_marks(files: Iterable[Path]) -> list[tuple[str, int, int, int, int]]:
    """Return path, size, time of last change in ns, inode and device of each file, links resolved, sorted.

    Equal marks mean equal bytes as make and rsync mean it: an edit that sets size and time back goes unseen.
    """
    found = []
    for path in {path.resolve() for path in files}:
        status = path.stat()
        found.append((str(path), status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev))
    return sorted(found)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
