"""Holding one op of one backend to another's, on one generated call: caches exactly, attention in dB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.parity.compare import Difference, first_difference
from innerq_export.parity.metrics import decibels
from innerq_export.parity.ops.base import OpBackend, ReferenceOps
from innerq_export.parity.runners.op import OpRunner
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


def run_once(
    backend: OpBackend, op: Op, config: CacheConfig, inputs: Mapping[str, Tensor], scale: float = 0.0
) -> Mapping[str, Tensor]:
    """Run one op through its Polygraphy runner."""
    with OpRunner(backend, op, config, scale=scale) as runner:
        return runner.infer(inputs, check_inputs=False)


def append_difference(backend: OpBackend, config: CacheConfig, case: OpCase) -> OpDifference | None:
    """Run InnerQAppend; return the first place that is not the reference's, bit for bit."""
    inputs = append_inputs(config, backend.layout, case)
    got = run_once(backend, APPEND, config, inputs)
    length_B = inputs["past_length"] + inputs["new_length"]
    expected = run_once(ReferenceOps(backend.layout), APPEND, config, inputs)
    wanted = cache_of(config, backend.layout, expected, "present", length_B)
    held = cache_of(config, backend.layout, got, "present", length_B)
    tensors = {"window": held.window_B2HkvWD, "key_norm": held.key_norm_BHkvD, **held.blocks.tensors()}
    found = first_difference(wanted, tensors)
    return OpDifference(APPEND, case, cache=found) if found else None


def attention_levels(backend: OpBackend, config: CacheConfig, case: OpCase, scale: float) -> Tensor:
    """Return dB [B, Hq, S] of InnerQAttention against the reference in fp32; inf on padding."""
    inputs = attention_inputs(config, backend.layout, case)
    got = run_once(backend, ATTENTION, config, inputs, scale)["output"]
    exact = inputs | {"query": inputs["query"].double()}
    expected = run_once(ReferenceOps(backend.layout), ATTENTION, config, exact, scale)["output"]
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


def bits_difference(
    got_from: OpBackend, expected_from: OpBackend, op: Op, config: CacheConfig, case: OpCase
) -> Difference | None:
    """Return the first place where two backends of the packed layout write other bits; rows of padding do not count.

    A window has no tokens here, so its slot is told as part of the name; a word of a record counts as its channel.
    """
    generate = append_inputs if op is APPEND else attention_inputs
    inputs = generate(config, got_from.layout, case)
    got, expected = (run_once(side, op, config, inputs) for side in (got_from, expected_from))
    for name, tensor in expected.items():
        differs = _bits(tensor) != _bits(got[name])
        if name == "output":
            differs &= _real(inputs)[:, None, :, None]
        if differs.any():
            place = tuple(differs.nonzero()[0].tolist())
            return _placed(name, place, tensor[place].item(), got[name][place].item(), case)
    return None


def _placed(name: str, place: tuple[int, ...], expected: float, got: float, case: OpCase) -> Difference:
    sequence, *inner, channel = place
    if name == "output":
        head, row = inner
        kv_head, token = head // (case.heads // case.kv_heads), case.past[sequence] + row
        return Difference(f"output of head {head}", sequence, kv_head, None, token, channel, expected, got)
    if name.endswith("window"):
        kind, head, slot = inner
        part = f"{name} of {('keys', 'values')[kind]}, slot {slot}"
        return Difference(part, sequence, head, None, None, channel, expected, got)
    head, block = inner[0], inner[1] if len(inner) > 1 else None
    return Difference(name, sequence, head, block, None, channel, expected, got)


def _real(inputs: dict[str, Tensor]) -> Tensor:
    return torch.arange(inputs["key"].shape[2]) < inputs["new_length"][:, None]


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view(torch.int16 if x.element_size() == 2 else torch.int32)
