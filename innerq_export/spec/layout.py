"""The packed record, in Python: the twin of plugins/include/innerq/layout.cuh, which explains the order.

Record = key codes | key scales | value codes | value scales | [value zeros] | [key zeros], layout version 1. Codes are
stored offset by 2^(b-1). A test holds the two twins together. numpy, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from innerq_export.spec.config import GROUP_SIZE, CacheConfig
from innerq_export.spec.sizes import has_zeros

LAYOUT_VERSION = 1
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """A part of a record: byte `offset` and byte `size`."""

    offset: int
    size: int

    def among(self, item_bytes: int) -> slice:
        """Return its place in a record that is read as items of `item_bytes` bytes (codes: words of 4, numbers: 2)."""
        return slice(self.offset // item_bytes, (self.offset + self.size) // item_bytes)


def record_parts(config: CacheConfig, head_dim: int) -> dict[str, Part]:
    """Return the parts that a record has, in order, by the short names of the op table."""
    tiles = head_dim // GROUP_SIZE
    scales = 64 * tiles
    sizes = {
        "key_codes": 128 * config.key_bits * tiles,
        "key_scales": scales,
        "value_codes": 128 * config.value_bits * tiles,
        "value_scales": scales,
        "value_zeros": scales * has_zeros(config.value_mode),
        "key_zeros": scales * has_zeros(config.key_mode),
    }
    parts, at = {}, 0
    for name, size in sizes.items():
        if size:
            parts[name] = Part(at, size)
        at += size
    return parts


@lru_cache(maxsize=32)
def code_bits(kind: str, bits: int, head_dim: int) -> Indices:
    """Return [bits, 32, D]: where bit i of the code of (token, channel) lies, counted in bits from the part's start.

    `kind` is 'key' or 'value'. Bit k of 32-bit word w is number 32 w + k.
    """
    tiles = head_dim // GROUP_SIZE
    token, channel = np.meshgrid(np.arange(GROUP_SIZE), np.arange(head_dim), indexing="ij")
    tile, inner = channel // GROUP_SIZE, channel % GROUP_SIZE
    lane, sub, cls, half = (_key_slot if kind == "key" else _value_slot)(token, inner)
    planes = []
    for i in range(bits):
        word, bit = _bit_place(bits, cls, sub, i)
        planes.append(32 * _code_word(tiles, bits, tile, lane, word) + bit + 16 * half)
    return np.stack(planes)


@lru_cache(maxsize=16)
def key_scale_places(head_dim: int) -> Indices:
    """Return [32, D/32]: which fp16 number of its part is the key scale of (token, tile)."""
    token, tile = np.meshgrid(np.arange(GROUP_SIZE), np.arange(head_dim // GROUP_SIZE), indexing="ij")
    return _scale_index(head_dim // GROUP_SIZE, tile, token & 7, token >> 3)


@lru_cache(maxsize=16)
def value_scale_places(head_dim: int) -> Indices:
    """Return [D]: which fp16 number of its part is the value scale of a channel."""
    channel = np.arange(head_dim)
    inner = channel & 31
    return _scale_index(head_dim // GROUP_SIZE, channel >> 5, inner >> 2, inner & 3)


def _key_slot(token: Indices, channel: Indices) -> tuple[Indices, Indices, Indices, Indices]:
    return 4 * (token & 7) + (channel >> 3), token >> 3, (channel >> 1) & 3, channel & 1


def _value_slot(token: Indices, channel: Indices) -> tuple[Indices, Indices, Indices, Indices]:
    return 4 * (channel >> 2) + ((token >> 1) & 3), channel & 3, token >> 3, token & 1


def _bit_place(bits: int, cls: Indices, sub: Indices, i: int) -> tuple[Indices, Indices]:
    """Return (word among a lane's words of the tile, bit 0..15 of the half) of bit i."""
    if bits != 3:
        fields, index = 16 // bits, 4 * sub + cls
        return index // fields, bits * (index % fields) + i
    places = [
        (cls == 3, 1 + (sub & 1), 9 + 3 * (sub >> 1) + i),
        (sub < 3, sub, 3 * cls + i),
        (cls < 2, 0 * sub, 9 + 3 * cls + i),
    ]
    cases = [case for case, _, _ in places]
    word = np.select(cases, [word for _, word, _ in places], i)
    return word, np.select(cases, [bit for _, _, bit in places], 15)


def _code_word(tiles: int, bits: int, tile: Indices, lane: Indices, word: Indices) -> Indices:
    n = tile * bits + word
    chunk = n // 4
    return 128 * chunk + lane * np.minimum(tiles * bits - 4 * chunk, 4) + n % 4


def _scale_index(tiles: int, tile: Indices, group: Indices, sub: Indices) -> Indices:
    return 4 * (tiles * group + tile) + sub
