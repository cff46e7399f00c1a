"""From what the user names to a Checkpoint: `llama` (the demo model), a local folder, or a hub id."""

from __future__ import annotations

import os
from pathlib import Path

from innerq_export.artifacts import Checkpoint
from innerq_export.checkpoint import demo, hub
from innerq_export.checkpoint.folder import read_folder
from innerq_export.errors import CheckpointError
from innerq_export.progress import Progress, Silent


def no_model(source: str) -> CheckpointError:
    """Return the error for a `source` that is neither 'llama' nor a folder nor has the form of a hub id."""
    return CheckpointError(
        f"'{source}' is no model",
        expected=f"'{demo.NAME}', a Hugging Face model folder, or a hub id such as owner/name",
        got="a file" if os.path.exists(source) else "no such folder",
        fix="check the spelling; only `build` takes a file too, and its name ends with .onnx",
    )


def open_checkpoint(source: str, progress: Progress | None = None) -> Checkpoint:
    """Return the checkpoint that `source` names: 'llama', a folder, or a hub id 'owner/name'. No weight is loaded.

    Raises CheckpointError (unsupported, malformed, not found) or EnvironmentMismatchError (no network, no access).
    """
    with (progress or Silent()).stage("reading checkpoint") as step:
        if source == demo.NAME:
            return read_folder(demo.demo_folder(), step, source, demo.NOTES)
        if os.path.isdir(source):
            return read_folder(Path(source), step, source)
        if os.path.exists(source) or not hub.is_hub_id(source):
            raise no_model(source)
        return read_folder(hub.download(source), step, source)
