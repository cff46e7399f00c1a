"""The hidden file of a folder that says which stages of its build are done, from what and how long they took."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from innerq_export.engine.strict import decode

RECORD_NAME = ".stages.json"
SCHEMA = 1


@dataclass(frozen=True)
class FileStamp:
    """Size and time of last change in ns: a file of equal stamp is taken to be unchanged."""

    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Return the stamp of the file at `path`."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Stage:
    """A finished stage: `key`, the digest of all that it was made from; the `seconds` it took when it was made; `files`
    by name in the folder; `result`, what it told later stages (JSON values); `reused`: not made by the last build.
    """

    key: str
    seconds: float
    files: Mapping[str, FileStamp]
    result: Mapping[str, Any]
    reused: bool = False


@dataclass(frozen=True)
class Record:
    """The stages of a folder by name, for the build of `request` (a digest). `boot`: of which start of the machine;
    `finished`: nothing of that build is still to be done.
    """

    request: str
    boot: str
    stages: Mapping[str, Stage] = field(default_factory=dict)
    finished: bool = False
    schema: int = SCHEMA

    @property
    def reused(self) -> tuple[str, ...]:
        """The stages that the last build did not make anew, and 'trace' where it took a traced graph from the store."""
        names = tuple(name for name, stage in self.stages.items() if stage.reused)
        return names + ("trace",) * any(stage.result.get("saved") for stage in self.stages.values() if not stage.reused)

    @property
    def saved_seconds(self) -> float:
        """What the stages that were reused took when they were made."""
        return sum(stage.seconds * stage.reused + stage.result.get("saved", 0.0) for stage in self.stages.values())


def read_record(folder: Path) -> Record | None:
    """Return the record of `folder`; None where there is none that this version wrote whole."""
    try:
        record = decode(Record, json.loads((folder / RECORD_NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    return record if record.schema == SCHEMA and all(map(_inside, _files(record))) else None


def write_record(folder: Path, record: Record) -> None:
    """Write the record in one rename."""
    draft = folder / f"{RECORD_NAME}.new"
    draft.write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
    draft.replace(folder / RECORD_NAME)


def update_record(folder: Path, name: str, stage: Stage | None) -> None:
    """Put `stage` in the place of the one of that `name`, None removes it; nothing is left to be done then."""
    record = read_record(folder)
    if record is not None:
        others = {other: kept for other, kept in record.stages.items() if other != name}
        stages = others | {name: stage} if stage else others
        write_record(folder, replace(record, stages=stages, finished=True))


def unfinished(folder: Path, request: str) -> bool:
    """Tell whether the build of `request` into `folder` stopped before its last stage, parity, had its verdict."""
    record = read_record(folder)
    return record is not None and not record.finished and record.request == request


def _files(record: Record) -> list[str]:
    return [name for stage in record.stages.values() for name in stage.files]


def _inside(name: str) -> bool:
    return not os.path.isabs(name) and ".." not in Path(name).parts


def _boot() -> str:
    """Return what Linux calls this run of the kernel; empty elsewhere."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


BOOT = _boot()
