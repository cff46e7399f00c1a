"""TensorRT's progress monitor, feeding an estimate."""

from __future__ import annotations

from typing import Any

from innerq_export.engine.estimate import Estimate


def progress_monitor(trt: Any, estimate: Estimate) -> Any:
    """Return an IProgressMonitor of binding `trt` that tells `estimate` what the builder does."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            estimate.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            estimate.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            estimate.finish(phase_name)

    return Monitor()
