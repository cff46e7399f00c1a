"""The engine folder on disk: built beside its place and moved there at once, one build at a time."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from innerq_export.artifacts import Engine
from innerq_export.engine.files import check_files, entries_of
from innerq_export.engine.manifest import MANIFEST_NAME, Manifest, rebuild_command
from innerq_export.errors import ConfigError, UserError


@contextmanager
def staging(folder: Path, *, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside `folder`. When the block ends it takes the place of `folder`, in one rename.

    When the block raises (KeyboardInterrupt too) it is removed and `folder` is as it was. What a killed build left is
    cleared away, or with `resume` is still in the folder that is yielded (see Ledger). Raises ConfigError when another
    build holds the folder, when `folder` holds an engine and `overwrite` is false, or when it holds anything that is no
    engine: that is never overwritten; UserError when the place cannot be written or the disk is full.
    """
    folder = folder.resolve()
    with exclusive(folder):
        _restore(folder)
        _refuse_loss(folder, overwrite)
        stage = _sibling(folder, "building")
        if not resume:
            _remove(stage)
        stage.mkdir(exist_ok=True)
        try:
            yield stage
            _swap(stage, folder)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise _disk_full(folder) from error
            raise
        finally:
            _remove(stage)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json in one rename."""
    draft = folder / f".{MANIFEST_NAME}.new"
    draft.write_text(manifest.to_json(), encoding="utf-8")
    draft.replace(folder / MANIFEST_NAME)


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of an engine folder. Raises UserError when there is none or it cannot be read."""
    path = folder / MANIFEST_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _not_an_engine(folder) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON", got=error, fix="build the engine again") from error
    if not isinstance(fields, dict):
        raise UserError(f"{path} is not a JSON object", got=type(fields).__name__, fix="build the engine again")
    return Manifest.from_dict(fields, folder)


def load_engine(folder: Path, *, full: bool = False) -> Engine:
    """Return the engine in `folder` once every file is there and unchanged (`full`: hash all of them)."""
    manifest = read_manifest(folder)
    check_files(folder, manifest.files, rebuild_command(manifest, folder, fresh=True), full=full)
    return Engine(folder, manifest.to_dict())


def seal(folder: Path, *, ready: bool, parity: Mapping[str, Any] | None) -> Manifest:
    """Record the verdict of parity and the files it added, and return the new manifest."""
    with exclusive(folder):
        manifest = read_manifest(folder)
        files = entries_of(folder, manifest.files)
        sealed = manifest.replace(files=files, ready=ready, parity=dict(parity) if parity is not None else None)
        write_manifest(folder, sealed)
    return sealed


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other builds out of `folder` while the block runs; blocks of one thread may lie within each other.

    Raises ConfigError when another build holds it, UserError when the place cannot be written.
    """
    import filelock

    folder = folder.resolve()
    _make_parent(folder)
    lock = filelock.FileLock(_sibling(folder, "lock"), timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise ConfigError(
            f"another build is writing {folder}",
            expected="one build into a folder at a time",
            fix="wait for it, stop it, or build into another folder with --output",
        ) from error
    try:
        yield
    finally:
        lock.release()


def _make_parent(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write beside {folder}", got=error, fix="choose another --output") from error


def _disk_full(folder: Path) -> UserError:
    free = shutil.disk_usage(folder.parent).free
    return UserError(
        f"the disk of {folder} is full", got=f"{free:,} bytes left", fix="make room, or choose another --output"
    )


def _swap(stage: Path, folder: Path) -> None:
    former = _sibling(folder, "former")
    if folder.exists():
        folder.rename(former)
    stage.rename(folder)
    _remove(former)


def _restore(folder: Path) -> None:
    """Undo a swap that was killed between its two renames."""
    former = _sibling(folder, "former")
    if former.exists() and not folder.exists():
        former.rename(folder)
    _remove(former)


def _refuse_loss(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise ConfigError(f"{folder} is a file", expected="a folder", fix="choose another --output")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / MANIFEST_NAME).is_file():
        raise ConfigError(
            f"{folder} holds files that are no engine; building there would delete them",
            expected=f"an empty folder, a new one, or one with {MANIFEST_NAME}",
            got=", ".join(sorted(path.name for path in folder.iterdir())[:5]),
            fix="choose another --output",
        )
    if not overwrite:
        raise ConfigError(f"{folder} holds an engine already", fix="add --overwrite, or choose another --output")


def _sibling(folder: Path, role: str) -> Path:
    return folder.with_name(f".{folder.name}.{role}")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _not_an_engine(folder: Path) -> UserError:
    return UserError(
        f"{folder} is no engine folder" if folder.exists() else f"there is no folder {folder}",
        expected=f"a folder with {MANIFEST_NAME}",
        got="no manifest",
        fix=f"make one: innerq-export build --model llama --output {folder}",
    )
