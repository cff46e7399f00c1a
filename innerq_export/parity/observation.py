"""What a runner shows of one call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


_PROBES = ("key", "value", "query", "attention")


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

    def outputs(self) -> OrderedDict[str, np.ndarray]:
        """Return everything flat: logits, key_0, present_window_0, ...; shipped_logits, shipped_window_0, ..."""
        named = OrderedDict(logits=self.logits_BV)
        for index, layer in enumerate(self.layers):
            parts = zip(
                _PROBES, (layer.key_BHkvSD, layer.value_BHkvSD, layer.query_BHqSD, layer.output_BHqSD), strict=True
            )
            named |= {f"{part}_{index}": tensor for part, tensor in parts}
            named |= {f"present_{part}_{index}": tensor for part, tensor in layer.cache.items()}
        if self.shipped:
            named["shipped_logits"] = self.shipped.logits_BV
            for index, cache in enumerate(self.shipped.caches):
                named |= {f"shipped_{part}_{index}": tensor for part, tensor in cache.items()}
        return OrderedDict((name, tensor.numpy()) for name, tensor in named.items())
