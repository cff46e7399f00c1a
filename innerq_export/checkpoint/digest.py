"""A digest of a checkpoint's weights that reads kilobytes of each tensor, not gigabytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from innerq_export.artifacts import TensorRef

SAMPLE_BYTES = 4096


def weights_digest(tensors: Iterable[TensorRef]) -> str:
    """Return SHA-256 over names, dtypes, shapes and up to 12 KiB of each tensor: its start, middle and end.

    Equal weights give equal digests wherever the files lie and however they are sharded; an edit confined to the bytes
    between the samples goes unseen, which training never produces.
    """
    total = hashlib.sha256()
    by_file = sorted(tensors, key=lambda ref: str(ref.file))
    samples: dict[str, bytes] = {}
    for file, refs in groupby(by_file, key=lambda ref: ref.file):
        samples.update(_sample_file(file, refs))
    for ref in sorted(by_file, key=lambda ref: ref.name):
        total.update(f"{ref.name}\0{ref.dtype}\0{ref.shape}\0".encode())
        total.update(samples[ref.name])
    return total.hexdigest()


def _sample_file(file: Path, refs: Iterable[TensorRef]) -> dict[str, bytes]:
    with file.open("rb") as stream:
        return {ref.name: _sample(stream.fileno(), ref) for ref in refs}


def _sample(descriptor: int, ref: TensorRef) -> bytes:
    if ref.nbytes <= 3 * SAMPLE_BYTES:
        return os.pread(descriptor, ref.nbytes, ref.offset)
    starts = (0, ref.nbytes // 2, ref.nbytes - SAMPLE_BYTES)
    return b"".join(os.pread(descriptor, SAMPLE_BYTES, ref.offset + start) for start in starts)
