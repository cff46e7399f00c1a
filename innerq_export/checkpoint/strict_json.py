"""JSON from a file nobody vouches for: bounded, UTF-8, one object, no key twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from innerq_export.errors import CheckpointError

SIZE_LIMIT = 64_000_000


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`. Raises CheckpointError when it is missing, too big or not one."""
    try:
        with file.open("rb") as stream:
            text = stream.read(SIZE_LIMIT + 1)
    except OSError as error:
        fix = "name a folder written by save_pretrained, or a hub id"
        raise CheckpointError(f"{file}: cannot be read", got=error.strerror or str(error), fix=fix) from error
    if len(text) > SIZE_LIMIT:
        raise CheckpointError(
            f"{file}: too big for a JSON file",
            expected=f"at most {SIZE_LIMIT} bytes",
            got="more",
            fix="download or convert the checkpoint again",
        )
    return parse_object(text, str(file))


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object that `text` holds; `what` names it in errors."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _not_json(what, str(error)[:200]) from error
    if not isinstance(value, dict):
        raise _not_json(what, type(value).__name__)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _not_json(what: str, got: str) -> CheckpointError:
    return CheckpointError(f"{what}: not a JSON object in UTF-8", got=got, fix="download the checkpoint again")
