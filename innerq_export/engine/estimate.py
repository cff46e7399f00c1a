"""How much of a build is done: from the builder's tree of phases, and from the clock where it says nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

COMPILE_PHASE = "Determining refit engines"
"""Here TensorRT-RTX 1.7 compiles the network for one profile: nearly all of its time, without one report."""

_COMPILE_SHARE = 0.95
_SECONDS_PER_LAYER = 0.002


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0


class PhaseTree:
    """The open phases, outermost first. A phase with n steps of which k are done has done (k + child) / n of itself."""

    def __init__(self) -> None:
        self._open: list[_Phase] = []
        self._over = False

    def start(self, name: str, steps: int) -> None:
        """Open a phase inside the innermost open one."""
        self._open.append(_Phase(name, max(1, steps)))

    def step(self, name: str, index: int) -> None:
        """Say that step `index` (from 0) of the phase is done."""
        for phase in reversed(self._open):
            if phase.name == name:
                phase.done = min(index + 1, phase.steps)
                return

    def finish(self, name: str) -> None:
        """Close the innermost phase of this name and everything inside it; the outermost one ends at 1."""
        for position in range(len(self._open) - 1, -1, -1):
            if self._open[position].name == name:
                del self._open[position:]
                self._over = not self._open
                return

    @property
    def fraction(self) -> float:
        """Share of the whole that is done, 0 to 1."""
        inner = 1.0 if self._over else 0.0
        for phase in reversed(self._open):
            inner = min(1.0, (phase.done + inner) / phase.steps)
        return inner

    @property
    def note(self) -> str:
        """The innermost open phase."""
        return self._open[-1].name if self._open else ""


class Estimate:
    """One number for a build of `profiles` profiles of a network of `layers` TensorRT layers; it never goes back.

    Inside a silent phase the clock counts: 90% when the expected time is over, ever more slowly after that. What the
    first profile really took is expected of the next. `clock` returns seconds.
    """

    def __init__(self, profiles: int, layers: int, clock: Callable[[], float] = time.monotonic):
        self._tree = PhaseTree()
        self._profiles, self._clock = profiles, clock
        self._expected = max(0.1, layers * _SECONDS_PER_LAYER)
        self._compiled, self._started = 0, 0.0
        self._compiling = False
        self._best = 0.0

    def start(self, name: str, steps: int) -> None:
        """See PhaseTree.start."""
        self._tree.start(name, steps)
        if name == COMPILE_PHASE:
            self._compiling, self._started = True, self._clock()

    def step(self, name: str, index: int) -> None:
        """See PhaseTree.step."""
        self._tree.step(name, index)

    def finish(self, name: str) -> None:
        """See PhaseTree.finish."""
        self._tree.finish(name)
        if name == COMPILE_PHASE and self._compiling:
            self._compiling, self._expected = False, max(0.1, self._clock() - self._started)
            self._compiled = min(self._compiled + 1, self._profiles)

    @property
    def fraction(self) -> float:
        """Share of the build that is done, 0 to 1."""
        now = self._tree.fraction
        if now < 1.0:
            compiled = self._compiled + (self._share() if self._compiling else 0.0)
            now = (1 - _COMPILE_SHARE) * now + _COMPILE_SHARE * min(1.0, compiled / self._profiles)
        self._best = max(self._best, now)
        return self._best

    @property
    def note(self) -> str:
        """What is being done, in words for a user."""
        if self._compiling:
            return f"compiling profile {self._compiled + 1} of {self._profiles}"
        return self._tree.note

    def _share(self) -> float:
        passed = (self._clock() - self._started) / self._expected
        return 0.9 * passed if passed < 1 else 1 - 0.1 * math.exp(1 - passed)
