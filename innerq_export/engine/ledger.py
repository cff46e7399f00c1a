"""Which stages of a build are done, kept beside their files: the next build does only what changed.

A stage is reused if it has the same key and its files are as they were. Sources are the folder itself, where a killed
build left finished stages, and the engine that the build replaces, whose files are hard-linked, never moved. What no
finished stage vouches for is deleted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from innerq_export.engine.files import names_of
from innerq_export.engine.folder import read_manifest
from innerq_export.engine.manifest import FileEntry
from innerq_export.engine.stage_record import BOOT, RECORD_NAME, FileStamp, Record, Stage, read_record, write_record
from innerq_export.errors import UserError

Result = Mapping[str, Any]


class Ledger:
    """The stages of the build of `request` (a digest) in `folder`; `former` is the engine that it will replace.

    Without a folder nothing is kept and nothing reused.
    """

    def __init__(self, folder: Path | None = None, former: Path | None = None, request: str = "") -> None:
        self.folder, self._former = folder, former
        self._left = _trusted(read_record(folder)) if folder else {}
        self._past = record.stages if former and (record := read_record(former)) else {}
        self._record = Record(request=request, boot=BOOT)
        self._nested = 0.0
        if folder:
            self._sweep(self._left)

    @property
    def reused(self) -> bool:
        """Whether anything of an earlier build is in this one."""
        return any(stage.reused for stage in self.stages.values())

    @property
    def known_files(self) -> Mapping[str, FileEntry]:
        """The hashes that the former engine's manifest has."""
        try:
            return read_manifest(self._former).files if self._former else {}
        except UserError:
            return {}

    @property
    def stages(self) -> Mapping[str, Stage]:
        """The stages of this build so far, by name."""
        return self._record.stages

    def run(self, name: str, key: str, work: Callable[[], Result]) -> Result:
        """Return what `work` returns (JSON values), from an earlier build if that had the same key.

        The files that `work` wrote are the stage's. Of nested stages each counts its own seconds only.
        """
        found = self.take(name, key)
        return found.result if found else self.make(name, key, work)

    def make(self, name: str, key: str, work: Callable[[], Result]) -> Result:
        """Do `work` whatever was done before, and keep it as a stage."""
        self._drop(self._left.get(name))
        before = self._stamps()
        outer, self._nested = self._nested, 0.0
        start = time.monotonic()
        result = json.loads(json.dumps(work(), default=str))
        elapsed = time.monotonic() - start
        seconds, self._nested = elapsed - self._nested, outer + elapsed
        files = {file: stamp for file, stamp in self._stamps().items() if before.get(file) != stamp}
        self._keep(name, Stage(key, round(seconds, 3), files, result))
        return result

    def take(self, name: str, key: str) -> Stage | None:
        """Return the stage of this key from an earlier build, its files now in the folder; None if there is none."""
        for place, stages in ((self.folder, self._left), (self._former, self._past)):
            stage = stages.get(name)
            if place and stage and stage.key == key and _intact(place, stage) and self._bring(place, stage):
                found = replace(stage, reused=True)
                self._keep(name, found)
                return found
        return None

    def finish(self) -> None:
        """Delete what belongs to no stage of this build."""
        if self.folder:
            self._sweep(self.stages)

    def close(self, *, finished: bool) -> None:
        """Say whether anything is still to be done (parity) once the folder is in its place."""
        self._write(replace(self._record, finished=finished))

    def _keep(self, name: str, stage: Stage) -> None:
        self._write(replace(self._record, stages={**self.stages, name: stage}))

    def _write(self, record: Record) -> None:
        self._record = record
        if self.folder:
            write_record(self.folder, replace(record, stages={**self._left, **record.stages}))

    def _bring(self, place: Path, stage: Stage) -> bool:
        """Link the files of `stage` into the folder; False where the disk has no hard links."""
        assert self.folder is not None
        if place == self.folder:
            return True
        try:
            for name in stage.files:
                (self.folder / name).unlink(missing_ok=True)
                os.link(place / name, self.folder / name)
        except OSError:
            self._drop(stage)
            return False
        return True

    def _drop(self, stage: Stage | None) -> None:
        if stage and self.folder:
            for name in stage.files:
                (self.folder / name).unlink(missing_ok=True)

    def _stamps(self) -> dict[str, FileStamp]:
        if not self.folder:
            return {}
        return {name: FileStamp.of(self.folder / name) for name in names_of(self.folder)}

    def _sweep(self, stages: Mapping[str, Stage]) -> None:
        assert self.folder is not None
        wanted = {self.folder / name for stage in stages.values() for name in stage.files}
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in wanted and path.name != RECORD_NAME:
                path.unlink()
        self._left = {name: stage for name, stage in self._left.items() if name in stages}
        self._write(self._record)


def _intact(place: Path, stage: Stage) -> bool:
    try:
        return all(FileStamp.of(place / name) == stamp for name, stamp in stage.files.items())
    except OSError:
        return False


def _trusted(record: Record | None) -> Mapping[str, Stage]:
    """Return the stages that a killed build left, if this machine has not been switched off since: then bytes that were
    written may never have reached the disk.
    """
    return record.stages if record and record.boot and record.boot == BOOT else {}
