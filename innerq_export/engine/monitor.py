"""TensorRT's builder reports a tree of phases; users want one number. And Ctrl-C must reach the builder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from innerq_export.progress import Step


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0


class PhaseTree:
    """The open phases, outermost first. A phase with n steps of which k are done has done (k + child) / n of itself.

    Reports never go backwards: TensorRT opens some phases more than once.
    """

    def __init__(self) -> None:
        self._open: list[_Phase] = []
        self._best = 0.0

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
                break
        if not self._open:
            self._best = 1.0

    @property
    def fraction(self) -> float:
        """Share of the whole that is done, 0 to 1, never less than before."""
        inner = 0.0
        for phase in reversed(self._open):
            inner = min(1.0, (phase.done + inner) / phase.steps)
        self._best = max(self._best, inner)
        return self._best

    @property
    def note(self) -> str:
        """The innermost open phase."""
        return self._open[-1].name if self._open else ""


def progress_monitor(trt: Any, step: Step) -> Any:
    """Return an IProgressMonitor of binding `trt` that feeds `step` and has `cancel()` and `cancelled`.

    TensorRT calls it from C++, where an exception would end the process: so whatever `step` raises is kept in
    `failure`, and the build is told to stop at its next step.
    """

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.tree = PhaseTree()
            self.cancelled = False
            self.failure: BaseException | None = None

        def cancel(self) -> None:
            self.cancelled = True

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.tree.start(phase_name, num_steps)
            self._report()

        def step_complete(self, phase_name: str, index: int) -> bool:
            self.tree.step(phase_name, index)
            self._report()
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self.tree.finish(phase_name)
            self._report()

        def _report(self) -> None:
            try:
                step.advance(self.tree.fraction, self.tree.note)
            except BaseException as error:
                self.failure = self.failure or error
                self.cancelled = True

    return Monitor()
