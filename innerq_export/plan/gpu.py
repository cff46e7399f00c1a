"""GPU memory of a running engine, from sizes: weights, cache, activations. Estimates of what cannot be measured here.

The sums name what is counted: per sequence the cache as the backend lays it out, per token of the longest prefill the
activations of one layer, and the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from innerq_export.artifacts import ModelShape
from innerq_export.engine.profiles import capacity_blocks
from innerq_export.spec import GROUP_SIZE, CacheConfig, has_zeros, record_bytes, window_bytes

_FP16 = 2
_FP32 = 4
_RUNTIME_BYTES = 600 << 20
"""CUDA context and libraries of one process: what nvidia-smi shows before anything is allocated, rounded up."""


@dataclass(frozen=True)
class GpuMemory:
    """Bytes on the card: `cache` is blocks and key norms, `window` full-precision tokens, `workspace` the rest."""

    weights: int
    cache: int
    window: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.window + self.workspace


@dataclass(frozen=True)
class GpuModel:
    """What the memory depends on. `weights`: bytes as the engine has them, of `item_bytes` each."""

    shape: ModelShape
    config: Mapping[str, Any]
    cache: CacheConfig
    backend: str
    weights: int
    item_bytes: int
    all_logits: bool

    def at(self, batch: int, context: int) -> GpuMemory:
        """Return the memory for `batch` sequences of up to `context` tokens, prefilled at once."""
        heads = batch * self.shape.layers * self.shape.kv_heads
        blocks = capacity_blocks(self.cache, context)
        copies = 2 if self.backend == "tensorrt-rtx" else 1
        record = block_bytes(self.cache, self.shape.head_dim, packed=self.backend == "tensorrt")
        return GpuMemory(
            weights=self.weights,
            cache=copies * heads * (blocks * record + self.shape.head_dim * _FP16),
            window=copies * heads * window_bytes(self.cache, self.shape.head_dim),
            workspace=_RUNTIME_BYTES + batch * (context * self._token_bytes() + self._logit_bytes(context)),
        )

    def longest_context(self, memory: int, batch: int) -> int:
        """Return the most tokens per sequence that fit, at most the model's own limit; 0 if none do."""
        return _largest(lambda context: self.at(batch, context).total <= memory, self.shape.max_positions)

    def largest_batch(self, memory: int, context: int) -> int:
        """Return the most sequences of `context` tokens that fit; 0 if none do."""
        return _largest(lambda batch: self.at(batch, context).total <= memory, 1 << 16)

    def _token_bytes(self) -> int:
        """Activations of one token in one layer: residual, norm, q, k, v, both halves of the MLP and its input."""
        hidden = self.config["hidden_size"]
        wide = self.config.get("intermediate_size") or 4 * hidden
        attention = (2 * self.shape.heads + 2 * self.shape.kv_heads) * self.shape.head_dim
        dequantised = 0 if self.backend == "tensorrt" else 2 * self.shape.kv_heads * self.shape.head_dim
        return self.item_bytes * (3 * hidden + attention + 2 * wide + dequantised)

    def _logit_bytes(self, context: int) -> int:
        return self.shape.vocab * _FP32 * (context if self.all_logits else 1)


def block_bytes(cache: CacheConfig, head_dim: int, *, packed: bool) -> int:
    """Return the bytes of 32 tokens of one KV head: a packed record, or the logical layout's int8 codes and scales."""
    if packed:
        return record_bytes(cache, head_dim)
    numbers = head_dim * _FP16
    modes = (cache.key_mode, cache.value_mode)
    return 2 * GROUP_SIZE * head_dim + sum(numbers * (1 + has_zeros(mode)) for mode in modes)


def _largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the largest n <= limit for which `fits(n)`, which holds for all smaller ones too; 0 if none."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
