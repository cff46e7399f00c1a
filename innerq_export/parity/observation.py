"""What a runner shows of one call, and what a runner is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class LayerSeen:
    """The two ops of one layer as they ran: their new keys and values, the cache after Append, query and output.

    `scale` is the attention's, None for 1 / sqrt(D). `cache` holds the present tensors
    of the logical layout by part: 'window', 'key_norm', 'key_codes', ...
    """

    key_BHkvSD: Tensor
    value_BHkvSD: Tensor
    cache: Mapping[str, Tensor]
    query_BHqSD: Tensor
    output_BHqSD: Tensor
    scale: float | None = None


@dataclass(frozen=True)
class Shipped:
    """The same call in a second session without probes: its logits and the cache of every layer."""

    logits_BV: Tensor
    caches: tuple[Mapping[str, Tensor], ...]


@dataclass(frozen=True)
class Seen:
    """One call: logits after the last new token of each sequence (fp32), and every layer; `shipped` if it was run."""

    logits_BV: Tensor
    layers: tuple[LayerSeen, ...]
    shipped: Shipped | None = None


class Runner(Protocol):
    """Something that runs an engine and lets parity look inside.

    `start` forgets everything and opens `batch` sequences; `step` adds the first `new_length_B[b]` tokens of each row.
    """

    name: str

    def start(self, batch: int) -> None:
        """Open `batch` empty sequences."""

    def step(self, ids_BS: Tensor, new_length_B: Tensor) -> Seen:
        """Run one call. What it returns may be overwritten by the next call."""
