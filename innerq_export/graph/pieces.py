"""Large arrays made and written in pieces by two threads, so that one reads or writes while the other computes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np

THREADS = 2
Make = Callable[[int, np.ndarray, np.ndarray], None]
"""(start, result, scratch): fill `result` with the items from `start` on; several threads call it at once."""


class PieceWriter:
    """Writes `items` values of `dtype` that `make` makes, `size` at a time; each thread has `scratch` bytes beside."""

    def __init__(self, items: int, dtype: np.dtype, make: Make, *, size: int, scratch: int) -> None:
        self._items, self._dtype, self._make = items, dtype, make
        self._size, self._scratch = min(size, items), scratch
        self._own = threading.local()

    def write(self, file: BinaryIO) -> None:
        """Write everything at the end of `file` and leave it there. Raises what `make` raises; OSError."""
        starts = range(0, self._items, self._size or 1)
        descriptor = _descriptor(file)
        if descriptor is None or len(starts) < 2:
            for start in starts:
                file.write(self._piece(start))
            return
        file.flush()
        begin = file.tell()
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                for _ in pool.map(lambda start: self._put(descriptor, begin, start), starts):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        file.seek(begin + self._items * self._dtype.itemsize)

    def _put(self, descriptor: int, begin: int, start: int) -> None:
        data, place = self._piece(start), begin + start * self._dtype.itemsize
        while data:
            done = os.pwrite(descriptor, data, place)
            data, place = data[done:], place + done

    def _piece(self, start: int) -> memoryview:
        """Return the bytes of the piece at `start`, in a buffer of this thread that its next piece overwrites."""
        if not hasattr(self._own, "result"):
            self._own.result = np.empty(self._size, self._dtype)
            self._own.scratch = np.empty(self._scratch, np.uint8)
        result = self._own.result[: self._items - start]
        self._make(start, result, self._own.scratch)
        return result.view(np.uint8).data


def read_into(file: Path, offset: int, buffer: np.ndarray) -> int:
    """Fill `buffer` (uint8) with the bytes of `file` from `offset` on; return how many there were."""
    with file.open("rb", buffering=0) as stream:
        stream.seek(offset)
        filled = 0
        while filled < buffer.size and (got := stream.readinto(buffer[filled:].data)):
            filled += got
        return filled


def _descriptor(file: BinaryIO) -> int | None:
    """Return the number of an open file that can be written at any place, None for what only looks like one."""
    try:
        return file.fileno() if hasattr(os, "pwrite") else None
    except (AttributeError, OSError):
        return None
