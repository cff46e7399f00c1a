"""FlashInfer's fp8 cache under bench decode's model: pages of 64 tokens, FA2 on tensor cores, planned once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from innerq_export.bench.decode_caches import Room
from innerq_export.bench.peers.flashinfer import FP8, PAGE, WORKSPACE_BYTES


class FlashInferCache:
    """Keys and values in fp8 (e4m3, no scales), exactly as long as the context; the new token overwrites the last."""

    def __init__(self, room: Room):
        from flashinfer import BatchDecodeWithPagedKVCacheWrapper

        shape, pages = room.shape, room.batch * room.tokens // PAGE
        if room.tokens % PAGE:
            raise ValueError(f"tokens must be a multiple of {PAGE}")
        sizes = (2, pages, PAGE, shape.kv_heads, shape.head_dim)
        self.layers = [torch.empty(sizes, dtype=FP8, device=room.device) for _ in range(shape.layers)]
        self.past_length_B = torch.full((room.batch,), room.tokens - 1, dtype=torch.int32, device=room.device)
        self._per_sequence, self._dtype = room.tokens // PAGE, room.dtype
        self._wrapper = BatchDecodeWithPagedKVCacheWrapper(
            torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=room.device), "NHD",
            use_tensor_cores=True, backend="fa2",
        )  # fmt: skip
        lengths: dict[str, Any] = {"dtype": torch.int32, "device": room.device}
        self._wrapper.plan(
            torch.arange(room.batch + 1, **lengths) * self._per_sequence,
            torch.arange(pages, **lengths),
            torch.full((room.batch,), PAGE, **lengths),
            shape.heads, shape.kv_heads, shape.head_dim, PAGE,
            q_data_type=room.dtype, kv_data_type=FP8,
        )  # fmt: skip

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)

    def fill(self) -> None:
        """Give every layer normal keys and values, by way of one page's worth of fp16."""
        numbers = torch.randn(self.layers[0].shape[2:], device=self.layers[0].device).to(FP8)
        for layer in self.layers:
            layer.copy_(numbers.expand_as(layer))

    def attend(self, layer: int, query_BHqSD: Tensor, key_BHkvSD: Tensor, value_BHkvSD: Tensor, scale: float) -> Tensor:
        """Cast and write the new token, then attend."""
        cache = self.layers[layer]
        last = slice(self._per_sequence - 1, None, self._per_sequence)
        for place, new in zip(cache, (key_BHkvSD, value_BHkvSD), strict=True):
            place[last, -1].copy_(new[:, :, 0])
        out = self._wrapper.run(query_BHqSD[:, :, 0].contiguous(), (cache[0], cache[1]))
        return out[:, None]


def flashinfer(room: Room) -> FlashInferCache:
    """Return a filled cache; ImportError where FlashInfer is not installed, RuntimeError for a shape it cannot do."""
    cache = FlashInferCache(room)
    cache.fill()
    return cache
