"""What stands in for a rung, for two sessions, for a plan and for a packing, so that faults can be put into each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
import torch

from innerq_export.parity.accuracy import Tally
from innerq_export.parity.observation import Seen, Shipped
from innerq_export.parity.ops.packing import ReferencePacking
from innerq_export.parity.runners import EmulatedRunner
from innerq_export.reference import Blocks, append, empty_cache
from innerq_export.spec import CacheConfig
from tests.parity.mutations import Mutation


class EveryRung:
    """Asks all rungs about every call and remembers which of them found something; finds nothing itself."""

    name, tolerance, verdict = "every", "", True

    def __init__(self, rungs: Iterable):
        self.rungs, self.found, self.tally = tuple(rungs), set(), Tally()

    def lacks(self, call) -> str:
        return ""

    def check(self, call) -> None:
        for rung in self.rungs:
            if rung.name not in self.found and not rung.lacks(call) and rung.check(call):
                self.found.add(rung.name)

    def figures(self) -> dict[str, float]:
        return {}


class TwoSessions(EmulatedRunner):
    """A sound session with probes, and one with a fault as users run it."""

    def __init__(self, sound: tuple, faulty: EmulatedRunner):
        super().__init__(*sound)
        self._faulty = faulty

    def open_sequences(self, batch: int) -> None:
        super().open_sequences(batch)
        self._faulty.open_sequences(batch)

    def step(self, ids_BS: torch.Tensor, new_length_B: torch.Tensor) -> Seen:
        plain = self._faulty.step(ids_BS, new_length_B)
        shipped = Shipped(plain.logits_BV, tuple(layer.cache for layer in plain.layers))
        return dataclasses.replace(super().step(ids_BS, new_length_B), shipped=shipped)


class PlanSession:
    """An emulated engine behind the interface of a runtime session."""

    max_batch = None

    def __init__(self, runner: EmulatedRunner, limit: int):
        self._runner, self.limit = runner, limit

    def reset(self, batch: int) -> None:
        self._runner.open_sequences(batch)
        self.length_B = np.zeros(batch, np.int32)

    def step(self, ids_BS: np.ndarray, new_B: np.ndarray) -> np.ndarray:
        self.length_B = self.length_B + new_B
        return self._runner.step(torch.from_numpy(ids_BS), torch.from_numpy(new_B)).logits_BV.numpy()


class FaultyPacking(ReferencePacking):
    """Packs blocks that the fault has changed; bf16 for fp16 concerns the scales."""

    def __init__(self, mutation: Mutation):
        self._mutation = mutation

    def pack(self, config: CacheConfig, blocks: Blocks) -> torch.Tensor:
        if "bf16" in self._mutation.name:
            coarse = {part: _coarse(tensor) for part, tensor in blocks.tensors().items()}
            return super().pack(config, Blocks.of(coarse))
        spoiled = self._mutation.cache(dataclasses.replace(_cache_like(config, blocks), blocks=blocks))
        return super().pack(config, spoiled.blocks)


def _coarse(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16().to(tensor.dtype) if tensor.dtype == torch.float16 else tensor


def _cache_like(config: CacheConfig, blocks: Blocks):
    """Return a cache that says it holds as many blocks."""
    _, kv_heads, count, _, head_dim = blocks.key_codes_BHkvN32D.shape
    tokens = config.sink + config.recent + 32 * count
    states = torch.zeros(1, kv_heads, tokens, head_dim, dtype=torch.float16)
    return append(empty_cache(config, 1, kv_heads, head_dim, count), states, states, torch.tensor([tokens]))
