"""One thing the doctor found."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "absent", "warning", "problem", "unknown"]


@dataclass(frozen=True)
class Finding:
    """`absent`: not there, only some backends need it; `problem`: what was asked for cannot work; `fix` mends it."""

    topic: str
    name: str
    state: State
    text: str
    fix: str = ""


Probe = Callable[[], Iterable[Finding]]


def guarded(topic: str, probe: Probe) -> list[Finding]:
    """Return what `probe` finds; a probe that fails is itself a finding, never an error."""
    found: list[Finding] = []
    try:
        for finding in probe():
            found.append(finding)
    except Exception as error:
        found.append(Finding(topic, "probe", "unknown", f"failed: {type(error).__name__}: {error}"))
    return found
