"""The header of one safetensors file, read without touching its weights and without trusting a byte of it.

Format (safetensors README): u64 little-endian header length, JSON header, tensor bytes. The tensors must cover the rest
of the file exactly, without holes or overlaps. Nothing is mapped or executed; only the header is read into memory.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

from innerq_export.artifacts import TensorRef
from innerq_export.checkpoint.strict_json import parse_object
from innerq_export.errors import CheckpointError

HEADER_LIMIT = 100_000_000
RANK_LIMIT = 8
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
_METADATA = "__metadata__"
_FIX = "download or convert the checkpoint again"


def read_header(file: Path) -> dict[str, TensorRef]:
    """Return every tensor of `file` by name. Raises CheckpointError that names the file and what is wrong in it."""
    try:
        size = regular_file_size(file)
        with file.open("rb") as stream:
            length = _header_length(file, stream.read(8), size)
            text = stream.read(length)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read", got=error.strerror or str(error), fix=_FIX) from error
    entries = parse_object(text, f"safetensors header of {file}")
    refs = [_tensor(file, name, entry, 8 + length) for name, entry in entries.items() if name != _METADATA]
    _check_coverage(file, refs, 8 + length, size)
    return {ref.name: ref for ref in refs}


def read_metadata(file: Path) -> dict[str, str]:
    """Return the texts by name in the header of `file`, which `read_header` has found in order; none is usual."""
    with file.open("rb") as stream:
        text = stream.read(int.from_bytes(stream.read(8), "little"))
    found = parse_object(text, f"safetensors header of {file}").get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise CheckpointError(f"{file}: {_METADATA} is malformed", expected="texts by name", fix=_FIX)
    return found


def regular_file_size(file: Path) -> int:
    """Return the size of `file` in bytes; devices, pipes and folders are refused, symbolic links are followed."""
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{file}: not a regular file", fix=_FIX)
    return status.st_size


def _header_length(file: Path, prefix: bytes, size: int) -> int:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or not 2 <= length <= min(HEADER_LIMIT, size - 8):
        expected = f"a header of 2 to {min(HEADER_LIMIT, max(size - 8, 0))} bytes"
        got = f"{length} bytes announced in a file of {size}"
        raise CheckpointError(f"{file}: truncated, or not a safetensors file", expected=expected, got=got, fix=_FIX)
    return length


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> TensorRef:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise _broken(file, name, "an object with dtype, shape and data_offsets", entry)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _broken(file, name, f"a dtype of {', '.join(ITEM_BYTES)}", dtype)
    if not _natural_numbers(shape) or len(shape) > RANK_LIMIT:
        raise _broken(file, name, f"a shape of at most {RANK_LIMIT} sizes", shape)
    if not _natural_numbers(offsets) or len(offsets) != 2:
        raise _broken(file, name, "data_offsets [begin, end]", offsets)
    nbytes = math.prod(shape) * ITEM_BYTES[dtype]
    if offsets[1] - offsets[0] != nbytes:
        raise _broken(file, name, f"{nbytes} bytes ({dtype} {shape})", f"data_offsets {offsets}")
    return TensorRef(name, dtype, tuple(shape), file, data_start + offsets[0], nbytes)


def _natural_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _check_coverage(file: Path, refs: list[TensorRef], data_start: int, size: int) -> None:
    end = data_start
    for ref in sorted(refs, key=lambda ref: (ref.offset, ref.nbytes)):
        if ref.offset != end:
            kind = "overlaps the tensor before it" if ref.offset < end else "leaves a hole before it"
            raise _broken(file, ref.name, f"bytes from {end}, {kind}", ref.offset)
        end = ref.offset + ref.nbytes
    if end != size:
        kind = "truncated" if end > size else "longer than its tensors"
        raise CheckpointError(f"{file}: {kind}", expected=f"{end} bytes", got=f"{size} bytes", fix=_FIX)


def _broken(file: Path, name: str, expected: str, got: object) -> CheckpointError:
    return CheckpointError(
        f"{file}: tensor '{name[:200]}' is malformed", expected=expected, got=str(got)[:200], fix=_FIX
    )
