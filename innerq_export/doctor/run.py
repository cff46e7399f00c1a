"""Other programs and other Pythons, asked with a time limit: what crashes there does not crash here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SECONDS = 60


def output_of(command: Sequence[str]) -> str:
    """Return what a program writes to stdout; '' when it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def ask_python(script: str, *arguments: str) -> dict[str, Any]:
    """Run `script` in a Python of its own and return the JSON object of its last line; {"error": why} when it fails."""
    command = [sys.executable, "-c", script, *arguments]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {SECONDS} s"}
    if result.returncode < 0:
        return {"error": f"the process died of {signal.Signals(-result.returncode).name}"}
    lines = result.stdout.strip().splitlines()
    if result.returncode != 0 or not lines:
        return {"error": (result.stderr.strip().splitlines() or ["no output"])[-1]}
    return json.loads(lines[-1])
