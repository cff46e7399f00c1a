"""What any way to compress a KV cache is to a model: which old tokens a query reads in fewer bits, and as what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FULL_BITS = 16.0
ReadBack = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(key_BHkvTD, value_BHkvTD, prompt) -> both in fp32 as they read once quantised; `prompt`: tokens of the first call"""


@dataclass(frozen=True)
class Hold:
    """How many tokens stay in full precision: the first `sink`, and at least `recent` of the last.

    The others are quantised `flush` at a time; with `own`, as soon as the query's own token is in the cache (SPEC
    section 7), without it only after its attention.
    """

    sink: int
    recent: int
    flush: int
    own: bool = False

    def first_full(self, token_T: Tensor) -> Tensor:
        """Return, for the query of each token, the first token from `sink` on that it reads in full precision."""
        due_T = (token_T + int(self.own) - self.sink - self.recent) // self.flush
        return self.sink + self.flush * due_T.clamp(min=0)

    def quantised(self, query_T: Tensor, token_U: Tensor) -> Tensor:
        """Return bool [T, U]: which tokens each query reads quantised; never its own."""
        older_TU = token_U < torch.minimum(self.first_full(query_T), query_T)[:, None]
        return older_TU & (token_U >= self.sink)

    def quantised_of(self, tokens: int) -> int:
        """Return how many of `tokens` tokens are quantised once all are in the cache."""
        return max(0, (tokens - self.sink - self.recent) // self.flush * self.flush)


@dataclass(frozen=True)
class Scheme:
    """One way to hold old keys and values in fewer bits; `key_bits`, `value_bits` count codes, scales and zeros."""

    name: str
    source: str
    key_bits: float
    value_bits: float
    key_hold: Hold
    value_hold: Hold
    read_back: ReadBack

    @property
    def bits(self) -> float:
        """Bits per quantised value, mean of keys and values."""
        return (self.key_bits + self.value_bits) / 2

    def bits_at(self, tokens: int) -> float:
        """Return bits per value of a sequence of `tokens` tokens, those in full precision counted with 16."""
        return (
            _mixed(self.key_bits, self.key_hold.quantised_of(tokens) / tokens)
            + _mixed(self.value_bits, self.value_hold.quantised_of(tokens) / tokens)
        ) / 2


def _mixed(bits: float, share: float) -> float:
    return share * bits + (1 - share) * FULL_BITS
