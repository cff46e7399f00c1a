"""An engine folder against this machine: every backend it was built for, checked as `run` checks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from innerq_export.doctor.finding import Finding
from innerq_export.errors import UserError


def check_engine_folder(folder: Path) -> Iterator[Finding]:
    """Say of each backend of `folder` whether it would be loaded here; nothing is loaded."""
    from innerq_export.engine.folder import read_manifest
    from innerq_export.runtime.checks import preflight

    try:
        manifest = read_manifest(folder)
    except UserError as error:
        yield Finding("engine", folder.name, "problem", _told(error), error.fix or "")
        return
    for backend in manifest.backends:
        try:
            preflight(folder, backend)
        except UserError as error:
            yield Finding("engine", backend, "problem", _told(error), error.fix or "")
        else:
            yield Finding("engine", backend, "ok", "whole, of matching versions, and parity has passed")


def _told(error: UserError) -> str:
    return "\n".join(line for line in str(error).splitlines() if not line.startswith("  fix:"))
