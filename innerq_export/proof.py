"""The verdict on an engine folder: parity is run, or taken over from an earlier build of the very same engine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.artifacts import Checkpoint, digest_of
from innerq_export.engine import read_manifest, seal
from innerq_export.engine.card import first_card
from innerq_export.engine.files import check_files, entries_of, names_of
from innerq_export.engine.folder import write_manifest
from innerq_export.engine.ledger import Ledger
from innerq_export.engine.manifest import Manifest, rebuild_command
from innerq_export.engine.stage_record import FileStamp, Stage, update_record
from innerq_export.engine.versions import TRACKED
from innerq_export.errors import ParityError
from innerq_export.identity import code_digest, file_marks, versions_of
from innerq_export.integrations.resolve import candidates
from innerq_export.progress import Progress

if TYPE_CHECKING:
    from innerq_export.parity.report import ParityReport

STAGE = "parity"
_OF_THE_PROOF = "parity"
"""How the names of the files begin that `prove` writes."""
_LIBRARIES = (*TRACKED, "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "polygraphy")


@dataclass(frozen=True)
class Extras:
    """What parity may do besides: keep logits in `save`, hold them to `against`, cut a failing piece into `bisect`."""

    save: Path | None = None
    against: Path | None = None
    bisect: Path | None = None


def prove(
    folder: Path,
    source: Checkpoint | Path | None,
    extent: str,
    progress: Progress | None = None,
    extras: Extras | None = None,
) -> ParityReport:
    """Run parity on an engine folder made from `source` (a checkpoint, an .onnx, or unknown) and keep the report there.

    Writes parity.json, what was compared as Polygraphy's AccuracyResults, and figures. Sets `ready` if it passed; else
    raises ParityError. UserError, with nothing changed, where a file is not the one that the manifest names.
    """
    from innerq_export.figures.parity import parity_figures
    from innerq_export.parity import ACCURACY_NAME, REPORT_NAME, bisect, look_closely, recording

    start, extras = time.monotonic(), extras or Extras()
    expected = recording.load(extras.against) if extras.against else None
    manifest = read_manifest(folder)
    files = {name: entry for name, entry in manifest.files.items() if not name.startswith(_OF_THE_PROOF)}
    check_files(folder, files, rebuild_command(manifest, folder))
    key = _key(folder, manifest, extent)
    checked = look_closely(folder, source, extent=extent, progress=progress)
    if extras.save:
        recording.save(checked, extras.save)
    report = recording.compared(checked, expected) if expected else checked.report
    (folder / REPORT_NAME).write_text(report.to_json(), encoding="utf-8")
    recording.save_accuracy(checked, folder / ACCURACY_NAME)
    parity_figures(report, folder)
    seal(folder, ready=report.passed, parity=report.summary)
    _record(folder, key, time.monotonic() - start, report.summary if report.passed and not expected else None)
    if not report.passed:
        cut = f"\n{bisect.write_piece(folder, checked, source, extras.bisect)}" if extras.bisect else ""
        raise ParityError(f"parity failed: {folder} is not ready\n{report.text()}{cut}")
    return report


def take_proof(folder: Path, extent: str, ledger: Ledger) -> bool:
    """Make the new engine in `folder` ready if the one it replaces passed this parity and is equal, file by file."""
    manifest = read_manifest(folder)
    stage = ledger.take(STAGE, _key(folder, manifest, extent))
    if stage is not None:
        files = entries_of(folder, {**ledger.known_files, **manifest.files})
        write_manifest(folder, manifest.replace(files=files, ready=True, parity=stage.result))
    return stage is not None


def _key(folder: Path, manifest: Manifest, extent: str) -> str:
    """Return the key of the verdict: every file of the engine, what it was made from, and all that takes part."""
    files = {name: entry.sha256 for name, entry in manifest.files.items() if not name.startswith(_OF_THE_PROOF)}
    libraries = [place.path for kind in ("host", "cuda") for place in candidates(kind) if place.path.is_file()]
    card = first_card()
    return digest_of(
        code_digest(),
        versions_of(*_LIBRARIES),
        file_marks(libraries),
        asdict(card) if card else None,
        files,
        manifest.source_digest,
        extent,
    )


def _record(folder: Path, key: str, seconds: float, summary: Mapping[str, Any] | None) -> None:
    """Keep a verdict that may be reused, else forget the former one; either way nothing is left to be done."""
    files = {name: FileStamp.of(folder / name) for name in names_of(folder) if name.startswith(_OF_THE_PROOF)}
    stage = Stage(key, round(seconds, 3), files, dict(summary)) if summary is not None else None
    update_record(folder, STAGE, stage)
