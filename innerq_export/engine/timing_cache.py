"""TensorRT's kernel timings, kept in a file between builds. TensorRT-RTX measures nothing and has no use for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TimingCache:
    """A timing cache in the file `path`; None keeps nothing. A file of another TensorRT or card is started afresh."""

    def __init__(self, path: Path | None):
        self._path = path
        self._cache: Any = None

    def attach(self, config: Any) -> None:
        """Give the builder config what the file knows."""
        if self._path is None:
            return
        known = self._path.read_bytes() if self._path.is_file() else b""
        self._cache = config.create_timing_cache(known)
        if not config.set_timing_cache(self._cache, ignore_mismatch=False):
            self._cache = config.create_timing_cache(b"")
            config.set_timing_cache(self._cache, ignore_mismatch=False)

    def save(self) -> None:
        """Write the timings back in one rename."""
        if self._path is None or self._cache is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.new")
        draft.write_bytes(self._cache.serialize())
        draft.replace(self._path)
