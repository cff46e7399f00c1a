"""One call under test, and what the reference and PyTorch say about it, each computed when first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from innerq_export.parity.observation import Seen
from innerq_export.parity.torch_model import TorchModel
from innerq_export.reference import Cache, append, attend_over, dequantised_history


@dataclass(frozen=True)
class TorchSaid:
    """PyTorch on the same call: logits of every token and after the last new one, each layer's own keys and values."""

    logits_BSV: Tensor
    logits_BV: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


@dataclass(frozen=True)
class Call:
    """Call `index` of `case`: `seen` is the engine's; `caches` is the reference before it, one per layer.

    `teacher_forced`: its tokens are those of the text, not the engine's own choice.
    """

    case: str
    index: int
    ids_BS: Tensor
    past_length_B: Tensor
    new_length_B: Tensor
    seen: Seen
    caches: Sequence[Cache]
    model: TorchModel | None
    teacher_forced: bool = True
    _appended: dict[int, Cache] = field(default_factory=dict)

    @cached_property
    def after(self) -> tuple[Cache, ...]:
        """The reference's caches after the call."""
        return tuple(self.append(layer) for layer in range(len(self.caches)))

    def append(self, layer: int) -> Cache:
        """Return the reference's cache after Append of the engine's own keys and values; UserError if unfit."""
        if layer not in self._appended:
            seen = self.seen.layers[layer]
            made = append(self.caches[layer], seen.key_BHkvSD, seen.value_BHkvSD, self.new_length_B)
            self._appended[layer] = made
        return self._appended[layer]

    def attend(self, layer: int, query_BHqSD: Tensor, scale: float | None) -> Tensor:
        """Return the reference's Attend of this query over the engine's keys and values, fp32."""
        seen = self.seen.layers[layer]
        lengths = (self.past_length_B, self.new_length_B)
        history = self._histories[layer]
        return attend_over(history, query_BHqSD.float(), seen.key_BHkvSD, seen.value_BHkvSD, *lengths, scale)

    @cached_property
    def torch_said(self) -> TorchSaid:
        """PyTorch's side, attending over the engine's keys and values so that codes cannot drift apart."""
        assert self.model is not None
        keys, values = [], []

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            keys.append(key)
            values.append(value)
            return self.attend(layer, query, scale)

        position_BS = self.past_length_B[:, None] + torch.arange(self.ids_BS.shape[1])
        logits_BSV = self.model.with_attention(self.ids_BS, position_BS, attention)
        return TorchSaid(logits_BSV, self.last(logits_BSV), tuple(keys), tuple(values))

    @cached_property
    def _histories(self) -> tuple[tuple[Tensor, Tensor], ...]:
        return tuple(dequantised_history(cache, self.past_length_B) for cache in self.after)

    @property
    def active(self) -> list[int]:
        """Sequences that got new tokens."""
        return [b for b, new in enumerate(self.new_length_B.tolist()) if new]

    @property
    def real_BS(self) -> Tensor:
        """Whether each position holds a new token and no padding."""
        return torch.arange(self.ids_BS.shape[1]) < self.new_length_B[:, None]

    def last(self, x_BSV: Tensor) -> Tensor:
        """Return the row of each sequence's last new token (row 0 where it rests)."""
        return x_BSV[torch.arange(len(x_BSV)), (self.new_length_B - 1).clamp(min=0)]
