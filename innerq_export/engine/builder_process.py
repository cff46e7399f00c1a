"""Runs the builder in a process of its own: Ctrl-C ends it at once, and a crash of TensorRT is only an error here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import innerq_export
from innerq_export import errors
from innerq_export.engine.plan_request import PlanRequest
from innerq_export.errors import OutOfMemoryError, RewriteError, UserError
from innerq_export.progress import Step

_KILLED = (-9, 137)
_SHOWN_LINES = 5


def run_builder(request: PlanRequest, step: Step) -> str:
    """Build the plan that `request` asks for, report to `step`, and return the plan's SHA-256 as hex.

    Raises what the builder raises; OutOfMemoryError when the system killed it; RewriteError when it died otherwise;
    KeyboardInterrupt, its own or that of `step`, ends the builder at once. No failure leaves a file behind.
    """
    with tempfile.TemporaryFile("w+") as complaints:
        process = _start(complaints)
        try:
            outcome = _follow(process, request, step)
            status = process.wait()
        finally:
            _end(process)
            request.plan.with_name(f".{request.plan.name}.new").unlink(missing_ok=True)
        if isinstance(outcome, UserError):
            raise outcome
        if status != 0 or outcome is None:
            raise _died(request, status, complaints)
    step.advance(1.0, "")
    return outcome


def _start(complaints: IO[str]) -> subprocess.Popen[str]:
    """Start the worker where Ctrl-C on the terminal does not reach it, with this very package on its path."""
    package = str(Path(innerq_export.__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "innerq_export.engine.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=complaints,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )


def _follow(process: subprocess.Popen[str], request: PlanRequest, step: Step) -> UserError | str | None:
    """Pass progress on until the worker is silent; return the error that it reported, or the plan's digest."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request.to_json() + "\n")
        process.stdin.close()
    except BrokenPipeError:
        return None
    outcome: UserError | str | None = None
    for line in process.stdout:
        event = _event(line)
        if "fraction" in event:
            step.advance(event["fraction"], event["note"])
        elif "error" in event:
            outcome = _error(**event["error"])
        elif "sha256" in event:
            outcome = event["sha256"]
    return outcome


def _event(line: str) -> dict[str, Any]:
    """Return the event of a line, or none: libraries may print to stdout too."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}


def _error(kind: str, what: str, **parts: str | None) -> UserError:
    return getattr(errors, kind, UserError)(what, **parts)


def _died(request: PlanRequest, status: int, complaints: IO[str]) -> UserError:
    complaints.seek(0)
    last = "\n".join(complaints.read().splitlines()[-_SHOWN_LINES:])
    if status in _KILLED:
        return OutOfMemoryError(
            f"{request.binding}'s builder was killed by the system, most likely for lack of memory",
            got=last or f"exit status {status}",
            fix="close other programs, use a machine with more memory, or --backend onnxruntime",
        )
    return RewriteError(
        f"{request.binding}'s builder ended without a plan",
        expected="a plan, and exit status 0",
        got=f"exit status {status}: {last}",
        fix="build with --backend onnxruntime, and report the lines above",
    )


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
