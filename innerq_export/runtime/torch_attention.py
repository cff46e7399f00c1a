"""The attention that transformers' models call in a torch session: one opaque op a layer, answered by a cache.

Registered in transformers' attention interface, so every family's own code runs up to here and no code is written per
family. The op is told by a small tensor which cache and which layer it serves: tensors are inputs to torch.compile,
where a Python number would make it compile every layer anew.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "innerq_session"
_SLOT = "innerq_slot"


class LayerCache(Protocol):
    """What answers a layer's attention: appends the new tokens, then attends over all."""

    def attend(self, layer: int, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, scale: float) -> Tensor:
        """Return the attention [B, S, Hq, D]; `scale` 0 means 1/sqrt(D)."""


_numbers = itertools.count()
_caches: weakref.WeakValueDictionary[int, LayerCache] = weakref.WeakValueDictionary()


def enrol(cache: LayerCache) -> int:
    """Return the number by which `attach` and the op know `cache`, which stays the caller's to keep alive."""
    number = next(_numbers)
    _caches[number] = cache
    return number


def attach(model: nn.Module, number: int) -> None:
    """Let the cache of this number answer every layer of `model` from now on; compiled code stays valid."""
    for module in model.modules():
        layer = getattr(module, "layer_idx", None)
        if isinstance(layer, int):
            slot = torch.tensor([number, layer])
            held = module._buffers.get(_SLOT)
            if held is None:
                module.register_buffer(_SLOT, slot, persistent=False)
            else:
                held.copy_(slot)


def session_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None = None, **_: Any
) -> tuple[Tensor, None]:
    """Return (output [B, S, Hq, D], None), as transformers expects it; causality is the cache's."""
    return torch.ops.innerq.session_attend(query, key, value, getattr(module, _SLOT), scaling or 0.0), None


@torch.library.custom_op("innerq::session_attend", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, slot: Tensor, scale: float) -> Tensor:
    number, layer = slot.tolist()
    return _caches[number].attend(layer, query, key, value, scale)


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, slot: Tensor, scale: float) -> Tensor:
    batch, heads, tokens, head_dim = query.shape
    return query.new_empty(batch, tokens, heads, head_dim)


AttentionInterface.register(NAME, session_attention)
