"""Safetensors files built by hand, so that a test can break any part of one."""

import json
import struct
from pathlib import Path

GOOD = {
    "a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [12, 20]},
    "scalar": {"dtype": "BF16", "shape": [], "data_offsets": [20, 22]},
}
GOOD_BYTES = 22


def write_raw(file: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return file


def write(file: Path, header: object = GOOD, data: bytes = bytes(GOOD_BYTES)) -> Path:
    return write_raw(file, json.dumps(header).encode(), data)


def changed(tensor: str, **fields: object) -> dict:
    return GOOD | {tensor: GOOD[tensor] | fields}
