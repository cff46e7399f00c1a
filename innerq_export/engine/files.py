"""Hashes of the files in an engine folder, and the check that they are still the files that were built."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from innerq_export.engine.manifest import MANIFEST_NAME, FileEntry
from innerq_export.errors import UserError
from innerq_export.progress import Step

_CHUNK = 1 << 22


def file_entry(path: Path) -> FileEntry:
    """Return size, hash and time of the file at `path`, as they were before it was read."""
    return replace(entry_of(path, ""), sha256=sha256_of(path))


def entry_of(path: Path, digest: str) -> FileEntry:
    """Return size, time and `digest` of the file at `path`, which is not read."""
    found = path.stat()
    return FileEntry(found.st_size, digest, found.st_mtime_ns, linked=found.st_nlink > 1)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex, read in pieces of 4 MiB."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            total.update(piece)
    return total.hexdigest()


def entries_of(
    folder: Path, known: Mapping[str, FileEntry] | None = None, step: Step | None = None
) -> dict[str, FileEntry]:
    """Return an entry for every file under `folder` but the manifest and what is hidden.

    Entries of `known` are kept where size and time are equal. Names of one file (hard links) are hashed once. `step`
    hears of every file.
    """
    names = list(names_of(folder))
    found: dict[str, FileEntry] = {}
    first_names: dict[tuple[int, int], str] = {}
    for count, name in enumerate(names):
        if step is not None:
            step.advance(count / len(names), name)
        status = (folder / name).stat()
        first = first_names.setdefault((status.st_dev, status.st_ino), name)
        found[name] = found[first] if first in found else _reuse(folder / name, (known or {}).get(name))
    return found


def check_files(folder: Path, files: Mapping[str, FileEntry], fix: str, *, full: bool = False) -> None:
    """Raise UserError for the first file that is missing or is not the one that was built; `fix` mends it.

    A file whose size and time of change equal the recorded ones is taken to be unchanged; any other is hashed.
    `full` hashes every file.
    """
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing from the engine folder", expected=f"{entry.bytes} bytes", fix=fix)
        _check_file(path, entry, fix, full)


def _check_file(path: Path, entry: FileEntry, fix: str, full: bool) -> None:
    found = path.stat()
    if found.st_size != entry.bytes:
        raise _changed(path, f"{entry.bytes} bytes", f"{found.st_size} bytes", fix)
    if full or found.st_mtime_ns != entry.mtime_ns:
        digest = sha256_of(path)
        if digest != entry.sha256:
            raise _changed(path, f"sha256 {entry.sha256}", f"sha256 {digest}", fix)


def _changed(path: Path, expected: str, got: str, fix: str) -> UserError:
    return UserError(f"{path} is not the file that was built", expected=expected, got=got, fix=fix)


def _reuse(path: Path, known: FileEntry | None) -> FileEntry:
    if known is not None:
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) == (known.bytes, known.mtime_ns):
            return known
    return file_entry(path)


def names_of(folder: Path) -> Iterator[str]:
    """Yield the name of every file under `folder` but the manifest and what is hidden, sorted."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and name != MANIFEST_NAME and not hidden:
            yield name
