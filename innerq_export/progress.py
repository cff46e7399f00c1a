"""How stages report progress without knowing who shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Step(Protocol):
    """One running stage. `advance` may raise KeyboardInterrupt: whoever works then stops and cleans up."""

    def advance(self, fraction: float, note: str = "") -> None:
        """Say that `fraction` (0 to 1) of the stage is done, and in `note` what is being worked on."""


class Progress(Protocol):
    """A place where stages appear one after another."""

    def stage(self, name: str) -> AbstractContextManager[Step]:
        """Open a stage; use as `with progress.stage("exporting") as step:`."""


class _SilentStep:
    def advance(self, fraction: float, note: str = "") -> None:
        """Drop the report."""


class Silent:
    """Progress that shows nothing: the default of every stage."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Step]:
        """Open a stage that nobody sees."""
        yield _SilentStep()
