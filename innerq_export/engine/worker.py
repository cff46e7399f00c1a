"""`python -m innerq_export.engine.worker`: builds one plan in a process of its own.

Reads a PlanRequest from stdin and writes one JSON object per line to stdout: {"fraction", "note"} while it works, then
{"sha256"} of the plan, or {"error"} when it cannot. Exit status 0 means that the plan is written. A process of its own,
because TensorRT neither hears an interrupt while it compiles nor survives every model, and because its memory goes back
when it ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from typing import Any

from innerq_export.engine.builder import build_plan
from innerq_export.engine.estimate import Estimate
from innerq_export.engine.pages import get_ready
from innerq_export.engine.plan_request import PlanRequest
from innerq_export.errors import UserError

_BEAT_SECONDS = 0.25
_SPEAKING = threading.Lock()


def main() -> int:
    """Build what stdin asks for. The parent ends this process; Ctrl-C on the terminal is the parent's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = PlanRequest.from_json(sys.stdin.readline())
    get_ready(request.weights)
    try:
        trt = importlib.import_module(request.binding)
        digest = build_plan(trt, request, _report_regularly)
    except UserError as error:
        _say(error=describe(error))
        return error.exit_code
    _say(sha256=digest)
    return 0


def describe(error: UserError) -> dict[str, Any]:
    """Return the parts of an error as JSON values."""
    texts = {name: None if value is None else str(value) for name, value in vars(error).items()}
    return {"kind": type(error).__name__, **texts}


def _report_regularly(estimate: Estimate) -> None:
    def beat() -> None:
        while True:
            _say(fraction=estimate.fraction, note=estimate.note)
            silence.wait(_BEAT_SECONDS)

    silence = threading.Event()
    threading.Thread(target=beat, daemon=True).start()


def _say(**event: Any) -> None:
    """Write one line, whole: the thread that reports progress says something at any time."""
    try:
        with _SPEAKING:
            print(json.dumps(event), flush=True)
    except BrokenPipeError:
        os._exit(1)


if __name__ == "__main__":
    status = main()
    _SPEAKING.acquire()  # Python aborts if a thread is within stdout while it ends
    sys.exit(status)
