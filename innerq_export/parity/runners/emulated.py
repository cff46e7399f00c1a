"""The reference itself as an engine: PyTorch with a quantised cache, to show that the ladder is sound without ONNX.

Activations that cross the two ops are rounded to the engine's dtype, as an engine would; the rest is fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from innerq_export.artifacts import ModelShape
from innerq_export.parity.observation import LayerSeen, Seen
from innerq_export.parity.runners.base import EngineRunner
from innerq_export.parity.torch_model import TorchModel
from innerq_export.reference import Cache, append, attend, empty_cache
from innerq_export.spec import CacheConfig

CAPACITY_BLOCKS = 64


class EmulatedRunner(EngineRunner):
    """Runs `model` with the reference's cache. `damage(layer, cache)` may spoil a cache after Append.

    `attention` stands in for the reference's `attend`.
    """

    def __init__(
        self,
        model: TorchModel,
        config: CacheConfig,
        shape: ModelShape,
        dtype: str,
        damage: Callable[[int, Cache], Cache] = lambda layer, cache: cache,
        attention: Callable[..., Tensor] = attend,
    ):
        super().__init__(name="emulated")
        self._model, self._config, self._shape = model, config, shape
        self._damage, self._attend = damage, attention
        self._dtype = getattr(torch, dtype)

    def open_sequences(self, batch: int) -> None:
        """Open `batch` empty sequences."""
        sizes = (batch, self._shape.kv_heads, self._shape.head_dim, CAPACITY_BLOCKS)
        self._caches = [empty_cache(self._config, *sizes, dtype=self._dtype)] * self._shape.layers

    def step(self, ids_BS: Tensor, new_length_B: Tensor) -> Seen:
        """Run one call."""
        past_B = self._caches[0].length_B
        layers: list[LayerSeen] = []

        def attention(layer: int, *states: Tensor, scale: float) -> Tensor:
            query, key, value = (state.to(self._dtype) for state in states)
            cache = self._damage(layer, append(self._caches[layer], key, value, new_length_B))
            output = self._attend(cache, query, key, value, past_B, new_length_B, scale)
            self._caches[layer] = cache
            held = {"window": cache.window_B2HkvWD, "key_norm": cache.key_norm_BHkvD, **cache.blocks.tensors()}
            layers.append(LayerSeen(key, value, held, query, output, scale))
            return output.float()

        position_BS = past_B[:, None] + torch.arange(ids_BS.shape[1])
        logits_BSV = self._model.with_attention(
            ids_BS, position_BS, lambda i, q, k, v, s: attention(i, q, k, v, scale=s)
        )
        last_B = (new_length_B - 1).clamp(min=0)
        return Seen(logits_BSV[torch.arange(len(last_B)), last_B], tuple(layers))
