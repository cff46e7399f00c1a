"""What is checked before an engine is loaded: it is whole, it passed parity, and this machine fits it."""

from __future__ import annotations

from pathlib import Path

from innerq_export.engine.backend_record import BackendRecord, record_of
from innerq_export.engine.backends import BACKENDS
from innerq_export.engine.card import first_card
from innerq_export.engine.files import check_files
from innerq_export.engine.folder import read_manifest
from innerq_export.engine.manifest import Manifest, rebuild_command
from innerq_export.engine.versions import release, version_of
from innerq_export.errors import EnvironmentMismatchError, ParityError
from innerq_export.spec import SPEC_VERSION

CHECKPOINT_BACKEND = "torch"
"""Runs any folder from its checkpoint; nothing is built for it."""
_LOCKED_TO_RELEASE = ("tensorrt-rtx", "tensorrt")


def preflight(
    folder: Path, backend: str = "onnxruntime", *, allow_unready: bool = False, full: bool = False
) -> Manifest:
    """Return the manifest if `folder` can be run by `backend` here.

    Raises UserError for a damaged folder, ParityError for an engine that parity has not passed (unless
    `allow_unready`), EnvironmentMismatchError with both versions and the mending command otherwise. The card is
    `check_card`'s to look at. `full` hashes every file even where size and time say that it is unchanged.
    """
    manifest = read_manifest(folder)
    fix = rebuild_command(manifest, folder)
    if backend != CHECKPOINT_BACKEND:
        _check_backend(record_of(manifest, backend, folder), folder, backend, fix)
    check_files(folder, manifest.files, fix, full=full)
    if not manifest.ready and not allow_unready:
        raise ParityError(
            f"{folder} is not ready: parity has not passed on it",
            expected="ready: true in manifest.json",
            got=_verdict(manifest),
            fix=f"innerq-export parity {folder}",
        )
    return manifest


def check_card(manifest: Manifest, folder: Path, backend: str) -> None:
    """Raise EnvironmentMismatchError unless this machine has a card that the plan of `backend` is for."""
    needed = record_of(manifest, backend, folder).cards
    card = first_card()
    if card is not None and (not needed or card.compute_capability in needed):
        return
    raise EnvironmentMismatchError(
        f"the {backend} engine in {folder} does not run on this machine",
        expected=f"an NVIDIA card of compute capability {' or '.join(needed) or 'any'}",
        got=f"{card.name}, compute capability {card.compute_capability}" if card else "no NVIDIA card with a driver",
        fix=rebuild_command(manifest, folder) if card else f"innerq-export run {folder} --backend onnxruntime",
    )


def _check_backend(record: BackendRecord, folder: Path, backend: str, fix: str) -> None:
    for package, built in record.versions.items():
        _check_version(folder, package, built, fix, BACKENDS[backend].install)
    if record.plugin is not None and record.plugin.spec_version != SPEC_VERSION:
        raise EnvironmentMismatchError(
            f"{folder / record.plugin.file} implements another contract",
            expected=f"spec version {SPEC_VERSION} (this innerq-export)",
            got=f"spec version {record.plugin.spec_version}",
            fix=f"innerq-export plugin build, then {fix}",
        )


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
