"""Errors that a user can mend: each says what is wrong, what was expected, what was found, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend. The CLI prints it without a traceback and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, what: str, *, expected: object = None, got: object = None, fix: str | None = None):
        self.what, self.expected, self.got, self.fix = what, expected, got, fix
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.what]
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.got is not None:
            lines.append(f"  got:      {self.got}")
        if self.fix:
            lines.append(f"  fix:      {self.fix}")
        return "\n".join(lines)


class ConfigError(UserError):
    """A cache configuration, model configuration or option that cannot hold."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read as one."""


class RewriteError(UserError):
    """A graph in which the rewrite did not find what it needs."""


class ParityError(UserError):
    """The engine does not say what PyTorch says."""

    exit_code = 3


class EnvironmentMismatchError(UserError):
    """Something installed is missing or of another version than an artefact needs."""

    exit_code = 4


class OutOfMemoryError(UserError):
    """Predicted or met lack of memory."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word closest to `name`, or lists all known words."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"one of: {', '.join(options)}"
