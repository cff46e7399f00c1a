"""Comparing a cache with the reference's, exactly, and saying where the first difference is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.reference import Cache
from innerq_export.spec import GROUP_SIZE


@dataclass(frozen=True)
class Difference:
    """One place where a cache tensor differs: the table's short name, where, and both numbers."""

    part: str
    sequence: int
    head: int
    block: int | None
    token: int | None
    channel: int | None
    expected: float
    got: float


def first_difference(expected: Cache, held: Mapping[str, Tensor]) -> Difference | None:
    """Return the first place where `held` (the table's short names) is not what the reference holds, or None.

    Only what the lengths say is held counts: spare blocks and slots that no token took may contain anything. The sign
    of a zero scale or zero point counts only where it is the flag of `hybrid`.
    """
    for b, length in enumerate(expected.length_B.tolist()):
        found = _norms(expected, held, b) or _blocks(expected, held, b) or _window(expected, held, b, length)
        if found:
            return found
    return None


def block_difference(part: str, want: Tensor, got: Tensor, sink: int) -> Difference | None:
    """Return the first place where tensors [B, Hkv, N, ...] differ bit for bit; `part` 'records' for packed blocks."""
    want_bits, got_bits = ((_bits(x) if x.dtype != torch.int8 else x) for x in (want, got))
    if torch.equal(want_bits, got_bits):
        return None
    place = _first(want_bits != got_bits)
    sequence, head, block, *inner = place
    token, channel = (None, inner[0]) if part == "records" else _inside(part, block, inner, sink)
    numbers = want[tuple(place)].item(), got[tuple(place)].item()
    return Difference(part, sequence, head, block, token, channel, *numbers)


def _norms(expected: Cache, held: Mapping[str, Tensor], b: int) -> Difference | None:
    want, got = expected.key_norm_BHkvD[b], held["key_norm"][b]
    if torch.equal(want, got):
        return None
    head, channel = _first(want != got)
    return Difference("key_norm", b, head, None, None, channel, want[head, channel].item(), got[head, channel].item())


def _blocks(expected: Cache, held: Mapping[str, Tensor], b: int) -> Difference | None:
    count = expected.blocks_held(b)
    for part, tensor in expected.blocks.tensors().items():
        want, got = tensor[b, :, :count], held[part][b, :, :count]
        if torch.equal(want, got) and not _flags_differ(expected, part, want, got).any():
            continue
        place = _first(want.ne(got) | _flags_differ(expected, part, want, got))
        head, block, *inner = place
        token, channel = _inside(part, block, inner, expected.config.sink)
        return Difference(part, b, head, block, token, channel, want[tuple(place)].item(), got[tuple(place)].item())
    return None


def _window(expected: Cache, held: Mapping[str, Tensor], b: int, length: int) -> Difference | None:
    token_W = tokens_of_slots(expected, length)
    want, got = (tensor[b][:, :, token_W >= 0] for tensor in (expected.window_B2HkvWD, held["window"]))
    if torch.equal(_bits(want), _bits(got)):
        return None
    place = _first(_bits(want) != _bits(got))
    kind, head, row, channel = place
    token = int(token_W[token_W >= 0][row])
    part = f"window of {('keys', 'values')[kind]}"
    return Difference(part, b, head, None, token, channel, want[tuple(place)].item(), got[tuple(place)].item())


def tokens_of_slots(cache: Cache, length: int) -> Tensor:
    """Return [W]: the newest token of each window slot for a sequence of `length` tokens, -1 where none ever came."""
    sink, ring = cache.config.sink, cache.config.recent + GROUP_SIZE
    slot = torch.arange(cache.config.window_tokens)
    newest = length - 1 - (length - 1 - slot) % ring
    return torch.where(slot < sink, torch.where(slot < length, slot, -1), torch.where(newest >= sink, newest, -1))


def _flags_differ(expected: Cache, part: str, want: Tensor, got: Tensor) -> Tensor:
    mode = expected.config.key_mode if part.startswith("key") else expected.config.value_mode
    if part.endswith("scales") and mode == "hybrid":
        return torch.signbit(want) != torch.signbit(got)
    return torch.zeros_like(want, dtype=torch.bool)


def _inside(part: str, block: int, inner: list[int], sink: int) -> tuple[int | None, int | None]:
    """Return token and channel of a place inside a block; a scale of values has no token, one of keys no channel."""
    if part in ("value_scales", "value_zeros"):
        return None, inner[0]
    token = sink + GROUP_SIZE * block + inner[0]
    return token, inner[1] if part.endswith("codes") else None


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int16 if x.element_size() == 2 else torch.int32)


def _first(where: Tensor) -> list[int]:
    return where.nonzero()[0].tolist()
