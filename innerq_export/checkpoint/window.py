"""Sliding-window models, used where they are full attention: within the window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from innerq_export.checkpoint.support import active_window


def within_window(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return `config` with its context cut to an active sliding window, and the note that says so.

    A token sees itself and the window - 1 tokens before it, so up to `window` tokens nothing is hidden from anyone.
    """
    window = active_window(config)
    if window is None:
        return dict(config), ()
    full = config["max_position_embeddings"]
    note = f"sliding-window model: context limited to its window of {window:,} tokens (of {full:,})"
    return dict(config) | {"max_position_embeddings": window}, (note,)
