"""TensorRT's log: kept quiet, its last error kept for the message that the user reads."""

from __future__ import annotations

from typing import Any


def quiet_logger(trt: Any) -> Any:
    """Return an ILogger of binding `trt` that prints nothing; `errors` holds what TensorRT complained about."""

    class Quiet(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        @property
        def last_error(self) -> str:
            return self.errors[-1] if self.errors else ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)

    return Quiet()
