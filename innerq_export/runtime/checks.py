"""What is checked before an engine is loaded: it is whole, it passed parity, and this machine fits it."""

from __future__ import annotations

from pathlib import Path

from innerq_export.engine.backends import BACKENDS
from innerq_export.engine.files import check_files
from innerq_export.engine.folder import read_manifest
from innerq_export.engine.manifest import Manifest, rebuild_command
from innerq_export.engine.versions import release, version_of
from innerq_export.errors import EnvironmentMismatchError, ParityError, UserError

_LOCKED_TO_RELEASE = ("tensorrt-rtx", "tensorrt")


def preflight(
    folder: Path, backend: str = "onnxruntime", *, allow_unready: bool = False, full: bool = False
) -> Manifest:
    """Return the manifest if `folder` can be run by `backend` here.

    Raises UserError for a damaged folder, ParityError for an engine that parity has not passed (unless
    `allow_unready`), EnvironmentMismatchError with both versions and the mending command otherwise. `full` hashes
    every file even where size and time say that it is unchanged.
    """
    manifest = read_manifest(folder)
    fix = rebuild_command(manifest, folder)
    _check_backend(manifest, folder, backend, fix)
    check_files(folder, manifest.files, fix, full=full)
    if not manifest.ready and not allow_unready:
        raise ParityError(
            f"{folder} is not ready: parity has not passed on it",
            expected="ready: true in manifest.json",
            got=_verdict(manifest),
            fix=f"innerq-export parity {folder}",
        )
    return manifest


def _check_backend(manifest: Manifest, folder: Path, backend: str, fix: str) -> None:
    record = manifest.backends.get(backend)
    if record is None:
        raise UserError(
            f"{folder} was not built for backend '{backend}'",
            expected=", ".join(manifest.backends),
            got=backend,
            fix=f"{fix} --backend {backend}",
        )
    for package, built in record["versions"].items():
        _check_version(folder, package, built, fix, BACKENDS[backend].install)


def _check_version(folder: Path, package: str, built: str, fix: str, install: str) -> None:
    here = version_of(package)
    if here is not None and _fits(package, built, here):
        return
    raise EnvironmentMismatchError(
        f"{folder} does not fit the installed {package}",
        expected=f"{package} {built} (the engine was built with it)",
        got=f"{package} {here}" if here else f"{package} is not installed",
        fix=fix if here else install,
    )


def _fits(package: str, built: str, here: str) -> bool:
    """NVIDIA's plans load in the release that built them; ONNX files load in that release and any later one."""
    if package in _LOCKED_TO_RELEASE:
        return release(here) == release(built)
    return release(here) >= release(built)


def _verdict(manifest: Manifest) -> str:
    if manifest.parity is None:
        return "parity was never run"
    return f"parity failed: {manifest.parity.get('summary', 'see parity.json')}"
