"""Pages for a builder that waits for every one of them: a second thread has the system supply them in time.

TensorRT-RTX reads each weight, copies it into its engine and then once more on the way to the file, on one core.
Without this every page of these copies is a fault of that core, and what was freed is given back and faulted in anew.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""
_POPULATE_WRITE = 23
"""madvise of Linux 5.14 and later: faults pages in and leaves what is in them as it is."""
_PIECE = 8 << 20
_COPIES = 1.25
"""Of the weights, held by TensorRT-RTX 1.7.1 in any case: one in the engine, one of the projections that it joins."""
_LEAST = 64 << 20


def get_ready(weights: Sequence[Path]) -> threading.Thread | None:
    """Have pages of the files `weights` and of the heap ready for a builder that is about to copy these files.

    Returns the thread that does it, None where there is nothing to do: for small files and without glibc on Linux.
    The process keeps, from here on, memory that it frees for itself. No contents are changed, no error is raised.
    """
    total = sum(path.stat().st_size for path in weights)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or total < _LEAST:
        return None
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    heap = _heap(libc, int(_COPIES * total))
    thread = threading.Thread(target=_fetch, args=(libc, list(weights), heap), daemon=True)
    thread.start()
    return thread


def _heap(libc: Any, size: int) -> range:
    """Return the addresses of whole pages, free for the heap's next allocations, about `size` bytes in all."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    start = libc.malloc(size)
    libc.free(start)
    page = os.sysconf("SC_PAGE_SIZE")
    return range(-(-start // page) * page, (start + size) // page * page) if start else range(0)


def _fetch(libc: Any, weights: list[Path], heap: range) -> None:
    for path in weights:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for address in heap[::_PIECE]:
        if libc.madvise(address, min(_PIECE, heap.stop - address), _POPULATE_WRITE) != 0:
            return
