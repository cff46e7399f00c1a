"""A child process that ends with us: with its own children, at a time limit, at Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence


def finish(command: Sequence[str], limit_seconds: float) -> subprocess.CompletedProcess[str]:
    """Run `command` to its end and return status and output, whatever the status.

    Raises subprocess.TimeoutExpired after `limit_seconds` and OSError where it cannot be started. Nothing it started
    is left behind.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=limit_seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
