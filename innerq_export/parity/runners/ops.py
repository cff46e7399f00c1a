"""PyTorch's model with its two ops on a backend of the op rungs: kernels, or plugin, under a whole model."""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export.artifacts import ModelShape
from innerq_export.parity.observation import LayerSeen, Seen
from innerq_export.parity.ops.base import OpBackend
from innerq_export.parity.runners.base import EngineRunner
from innerq_export.parity.torch_model import TorchModel
from innerq_export.reference import empty_cache
from innerq_export.reference.ops import cache_of, tensors_of
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION


class OpsRunner(EngineRunner):
    """All but the ops is fp32; what crosses them is rounded to `dtype`. `blocks`: room of a sequence."""

    def __init__(
        self, model: TorchModel, backend: OpBackend, config: CacheConfig, shape: ModelShape, dtype: str, blocks: int
    ):
        super().__init__(name=backend.name)
        self._model, self._backend, self._config, self._shape = model, backend, config, shape
        self._dtype, self._blocks = getattr(torch, dtype), blocks

    def open_sequences(self, batch: int) -> None:
        """Open `batch` empty sequences."""
        sizes = (batch, self._shape.kv_heads, self._shape.head_dim, self._blocks)
        empty = tensors_of(empty_cache(self._config, *sizes, dtype=self._dtype), self._backend.layout, "past")
        self._past = [empty] * self._shape.layers
        self._past_B = torch.zeros(batch, dtype=torch.int32)

    def step(self, ids_BS: Tensor, new_length_B: Tensor) -> Seen:
        """Run one call."""
        layers: list[LayerSeen] = []

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
            rounded = [state.to(self._dtype).contiguous() for state in (query, key, value)]
            layers.append(self._layer(layer, rounded, new_length_B, scale))
            return layers[-1].output_BHqSD.float()

        position_BS = self._past_B[:, None] + torch.arange(ids_BS.shape[1])
        logits_BSV = self._model.with_attention(ids_BS, position_BS, attention)
        self._past_B = self._past_B + new_length_B
        last_B = (new_length_B - 1).clamp(min=0)
        return Seen(logits_BSV[torch.arange(len(last_B)), last_B], tuple(layers))

    def _layer(self, layer: int, states: list[Tensor], new_length_B: Tensor, scale: float) -> LayerSeen:
        query, key, value = states
        given = {"key": key, "value": value, "past_length": self._past_B, "new_length": new_length_B}
        present = self._backend.run(APPEND, self._config, given | self._past[layer])
        output = self._backend.run(ATTENTION, self._config, {"query": query} | given | present, scale)["output"]
        self._past[layer] = {name.replace("present", "past"): tensor for name, tensor in present.items()}
        after = cache_of(self._config, self._backend.layout, present, "present", self._past_B + new_length_B)
        held = {"window": after.window_B2HkvWD, "key_norm": after.key_norm_BHkvD, **after.blocks.tensors()}
        return LayerSeen(key, value, held, query, output, scale)
