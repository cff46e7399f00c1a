"""What a build really takes: seconds and peak resident memory of every stage, measured while it runs."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from innerq_export.progress import Progress, Step

_PROC = Path("/proc/self")
_BEAT_SECONDS = 0.05
_RESET_PEAK = "5"
"""Written to clear_refs, it sets the peak resident set back to the present one (proc(5))."""


@dataclass(frozen=True)
class Measured:
    """One finished stage. Peaks are resident bytes, pages of mapped files included; None where the system hides them.

    `peak` is of this process, `child_peak` of the largest child that ran meanwhile (0 without one).
    """

    stage: str
    seconds: float
    peak: int | None
    child_peak: int | None


class Meter:
    """A Progress that passes everything on to `inner` and keeps what each stage took in `stages`.

    It sets the kernel's peak of this process back when a stage starts; Linux only, elsewhere peaks are None.
    """

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self.stages: list[Measured] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[Step]:
        """Measure a stage. One that raises is not kept."""
        start = time.monotonic()
        _reset_peak()
        with self._inner.stage(name) as step, _children() as seen:
            yield step
        child = max(seen.values(), default=0) if _PROC.exists() else None
        self.stages.append(Measured(name, round(time.monotonic() - start, 3), peak_of(_PROC), child))


def peak_of(process: Path) -> int | None:
    """Return VmHWM, the peak resident bytes of /proc/PID, or None where it cannot be read."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", (process / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _reset_peak() -> None:
    try:
        (_PROC / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return


@contextmanager
def _children() -> Iterator[dict[str, int]]:
    """Yield a table that fills with the peak of every child process while the block runs."""
    peaks: dict[str, int] = {}
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(peaks, over), daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()


def _watch(peaks: dict[str, int], over: threading.Event) -> None:
    while not over.wait(_BEAT_SECONDS):
        for child in _child_ids():
            if _command(_PROC.parent / child) != _command(_PROC):
                peaks[child] = max(peaks.get(child, 0), peak_of(_PROC.parent / child) or 0)


def _command(process: Path) -> bytes:
    """Return the command line. A child that still has ours shares our memory: it has not started its program yet."""
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _child_ids() -> set[str]:
    found: set[str] = set()
    for task in _PROC.glob("task/*/children"):
        try:
            found.update(task.read_text().split())
        except OSError:
            continue
    return found
