"""Holding one op of one backend to another's, on one generated call: caches exactly, attention in dB."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.parity.compare import Difference, first_difference
from innerq_export.parity.metrics import decibels
from innerq_export.parity.ops.base import OpBackend, ReferenceOps
from innerq_export.reference.ops import append_inputs, attention_inputs, cache_of
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, Op, OpCase


@dataclass(frozen=True)
class OpDifference:
    """Where an op is wrong: one place of a cache, or a head and token of the attention output with its dB."""

    op: Op
    case: OpCase
    cache: Difference | None = None
    level_db: float = float("inf")
    sequence: int = 0
    head: int = 0
    token: int = 0


def append_difference(backend: OpBackend, config: CacheConfig, case: OpCase) -> OpDifference | None:
    """Run InnerQAppend; return the first place that is not the reference's, bit for bit."""
    inputs = append_inputs(config, backend.layout, case)
    got = backend.run(APPEND, config, inputs)
    length_B = inputs["past_length"] + inputs["new_length"]
    expected = ReferenceOps(backend.layout).run(APPEND, config, inputs)
    wanted = cache_of(config, backend.layout, expected, "present", length_B)
    held = cache_of(config, backend.layout, got, "present", length_B)
    tensors = {"window": held.window_B2HkvWD, "key_norm": held.key_norm_BHkvD, **held.blocks.tensors()}
    found = first_difference(wanted, tensors)
    return OpDifference(APPEND, case, cache=found) if found else None


def attention_levels(backend: OpBackend, config: CacheConfig, case: OpCase, scale: float) -> Tensor:
    """Return dB [B, Hq, S] of InnerQAttention against the reference in fp32; inf on padding."""
    inputs = attention_inputs(config, backend.layout, case)
    got = backend.run(ATTENTION, config, inputs, scale)["output"]
    exact = inputs | {"query": inputs["query"].double()}
    expected = ReferenceOps(backend.layout).run(ATTENTION, config, exact, scale)["output"]
    return torch.where(_real(inputs)[:, None], decibels(expected, got), torch.inf)


def attention_difference(
    backend: OpBackend, config: CacheConfig, case: OpCase, scale: float
) -> tuple[float, OpDifference | None]:
    """Return the worst dB of the call, and where it is if the op table's tolerance does not allow it."""
    level_BHqS = attention_levels(backend, config, case, scale)
    worst = level_BHqS.min().item()
    if worst >= ATTENTION.tolerance.min_db[case.dtype]:
        return worst, None
    sequence, head, row = (level_BHqS == worst).nonzero()[0].tolist()
    return worst, OpDifference(ATTENTION, case, None, worst, sequence, head, case.past[sequence] + row)


def bits_differ(first: OpBackend, second: OpBackend, op: Op, config: CacheConfig, case: OpCase) -> str:
    """Return '' if both give the same bytes wherever the lengths say that something is held, else the output's name."""
    generate = append_inputs if op is APPEND else attention_inputs
    inputs = generate(config, first.layout, case)
    one, other = first.run(op, config, inputs), second.run(op, config, inputs)
    real_BS = _real(inputs)
    for name, tensor in one.items():
        pair = [tensor, other[name]]
        if name == "output":
            pair = [x.transpose(1, 2)[real_BS] for x in pair]
        if not torch.equal(*(x.contiguous().view(torch.uint8) for x in pair)):
            return name
    return ""


def _real(inputs: dict[str, Tensor]) -> Tensor:
    return torch.arange(inputs["key"].shape[2]) < inputs["new_length"][:, None]
