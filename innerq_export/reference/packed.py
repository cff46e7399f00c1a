"""Packed records and logical blocks, each from the other, exactly (SPEC section 7; order: spec/layout.py)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from innerq_export.errors import UserError
from innerq_export.reference.blocks import Blocks
from innerq_export.spec import GROUP_SIZE, CacheConfig, record_bytes
from innerq_export.spec.layout import code_bits, key_scale_places, record_parts, value_scale_places


def pack(config: CacheConfig, blocks: Blocks) -> Tensor:
    """Return int32 records [B, Hkv, N, words] of the blocks."""
    tensors = blocks.tensors()
    head_dim = blocks.key_codes_BHkvN32D.shape[-1]
    leading = blocks.key_codes_BHkvN32D.shape[:3]
    records = np.zeros((*leading, record_bytes(config, head_dim)), dtype=np.uint8)
    for name, part in record_parts(config, head_dim).items():
        place = records[..., part.among(1)]
        place[...] = _pack_part(config, name, tensors[name].numpy(), part.size)
    return torch.from_numpy(records.view(np.int32))


def unpack(config: CacheConfig, records_BHkvNw: Tensor, head_dim: int) -> Blocks:
    """Return the blocks of int32 records [B, Hkv, N, words]. UserError if `words` is not this configuration's."""
    words = record_bytes(config, head_dim) // 4
    if records_BHkvNw.shape[-1] != words:
        got = f"{records_BHkvNw.shape[-1]} words"
        raise UserError(f"packed records of {config}, head dim {head_dim}", expected=f"{words} words", got=got)
    data = records_BHkvNw.contiguous().numpy().view(np.uint8)
    tensors = {}
    for name, part in record_parts(config, head_dim).items():
        bytes_ = np.ascontiguousarray(data[..., part.among(1)])
        tensors[name] = torch.from_numpy(_unpack_part(config, name, bytes_, head_dim))
    return Blocks.of(tensors)


def _pack_part(config: CacheConfig, name: str, array: NDArray, size: int) -> NDArray:
    """Return one part as bytes [..., size]."""
    kind, _, what = name.partition("_")
    if what != "codes":
        places = _places(kind, array.shape[-1] * (GROUP_SIZE if kind == "key" else 1))
        halves = np.zeros((*array.shape[:3], size // 2), dtype=np.float16)
        halves[..., places] = array
        return halves.view(np.uint8)
    bits = _bits(config, kind)
    stored = array.astype(np.int16) + 2 ** (bits - 1)
    flags = np.zeros((*array.shape[:3], 8 * size), dtype=np.uint8)
    for i, places in enumerate(code_bits(kind, bits, array.shape[-1])):
        flags[..., places] = (stored >> i) & 1
    return np.packbits(flags, axis=-1, bitorder="little")


def _unpack_part(config: CacheConfig, name: str, data: NDArray, head_dim: int) -> NDArray:
    """Return one part, given as bytes, in the shape and dtype of the logical layout."""
    kind, _, what = name.partition("_")
    if what != "codes":
        return data.view(np.float16)[..., _places(kind, head_dim)]
    bits = _bits(config, kind)
    flags = np.unpackbits(data, axis=-1, bitorder="little")
    planes = code_bits(kind, bits, head_dim)
    stored = sum(flags[..., places].astype(np.int16) << i for i, places in enumerate(planes))
    return (stored - 2 ** (bits - 1)).astype(np.int8)


def _places(kind: str, head_dim: int) -> NDArray:
    return key_scale_places(head_dim) if kind == "key" else value_scale_places(head_dim)


def _bits(config: CacheConfig, kind: str) -> int:
    return config.key_bits if kind == "key" else config.value_bits
