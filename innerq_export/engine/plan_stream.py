"""A large new file, written past the page cache and hashed on the way, while its author makes the next piece."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

_PIECE = 8 << 20
_PIECES = 4


class PlanStream:
    """A new file at `path`; use as `with PlanStream(path) as stream: stream.write(piece)`.

    Bytes go to the disk without a copy in the page cache (O_DIRECT) where system and file system can, through it
    elsewhere. `sha256` (hex) and `bytes` describe the whole once the block has ended. `write` and the end of the block
    raise OSError for anything that was written before; a part of the file then stays.
    """

    def __init__(self, path: Path) -> None:
        self.sha256, self.bytes = "", 0
        self._file = _open(path)
        self._pieces = [mmap.mmap(-1, _PIECE) for _ in range(_PIECES)]
        self._busy: list[list[Future[None]]] = [[] for _ in self._pieces]
        self._current, self._filled = 0, 0
        self._digest = hashlib.sha256()
        self._writer, self._hasher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def write(self, data: bytes | memoryview) -> int:
        """Take all of `data` and return its bytes; they may change as soon as this returns."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            taken = min(len(rest), _PIECE - self._filled)
            self._pieces[self._current][self._filled : self._filled + taken] = rest[:taken]
            self._filled += taken
            rest = rest[taken:]
            if self._filled == _PIECE:
                self._hand_over()
        self.bytes += size
        return size

    def __enter__(self) -> PlanStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        try:
            self._finish(complete=kind is None)
        finally:
            self._writer.shutdown()
            self._hasher.shutdown()
            os.close(self._file)

    def _finish(self, complete: bool) -> None:
        if complete:
            self._hand_over()
            for _ in self._pieces:
                self._next()
            os.ftruncate(self._file, self.bytes)
            self.sha256 = self._digest.hexdigest()

    def _hand_over(self) -> None:
        """Have the current piece hashed, and written as a whole, as sectors must; then wait for the next one."""
        piece = memoryview(self._pieces[self._current])
        hashed = self._hasher.submit(self._digest.update, piece[: self._filled])
        self._busy[self._current] = [hashed, self._writer.submit(self._put, piece)]
        self._next()

    def _next(self) -> None:
        self._current, self._filled = (self._current + 1) % _PIECES, 0
        for task in self._busy[self._current]:
            task.result()

    def _put(self, piece: memoryview) -> None:
        while piece:
            piece = piece[os.write(self._file, piece) :]


def _open(path: Path) -> int:
    """Open a new file, past the page cache where system and file system can."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0), 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o666)
