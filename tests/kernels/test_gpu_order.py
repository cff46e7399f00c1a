"""Kernels begin before the one before them has ended (grid_order.cuh): none may see what that one has yet to write.

Tried on an H200: with attention that does not wait, all of these fail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from innerq_export.bench.cases import Case
from innerq_export.bench.inputs import Step, random_step
from innerq_export.bench.ours import append_launch, attend_launch
from innerq_export.spec import blocks_of
from tests.kernels.side_by_side import POISON

pytestmark = pytest.mark.gpu
LAYERS = 12


def chain(batch: int, tokens: int) -> list[Step]:
    """Layers whose query is the output of the layer before; a block is due in every sequence."""
    generator = torch.Generator("cuda").manual_seed(0)
    case = Case("balanced", batch, 32, 8, tokens)
    steps = [random_step(case, torch.device("cuda"), generator) for _ in range(LAYERS)]
    for i in range(1, LAYERS):
        steps[i] = replace(steps[i], query_BHq1D=steps[i - 1].out_BHq1D)
    return steps


def far_away(step: Step) -> Step:
    """The same with lengths and new tokens in the host's memory: an append of it takes microseconds longer."""
    names = ("key_BHkv1D", "value_BHkv1D", "past_length_B")
    return replace(step, **{name: getattr(step, name).cpu().pin_memory() for name in names})


def outputs(steps: list[Step], run: Callable[[], object]) -> list[Tensor]:
    """Return what every layer answers to `run`; before, outputs and what the append writes are poisoned."""
    for step in steps:
        due = blocks_of(step.cache.config, int(step.past_length_B[0]))
        step.cache.blocks[:, :, due] = POISON
        step.cache.key_norm_BHkvD.fill_(1)
        step.out_BHq1D.fill_(float("nan"))
    torch.cuda.synchronize()
    run()
    torch.cuda.synchronize()
    return [step.out_BHq1D.clone() for step in steps]


@pytest.mark.parametrize(("batch", "tokens"), [(1, 160), (8, 192), (2, 8192)])
def test_every_kernel_waits_for_all_before_it(gpu_kernels, batch, tokens):
    steps = chain(batch, tokens)
    append = append_launch(gpu_kernels.library, [far_away(step) for step in steps])
    attend = attend_launch(gpu_kernels.library, steps)

    def run(between: Callable[[], object] = lambda: None) -> None:
        for i in range(LAYERS):
            append(i), between(), attend(i), between()

    expected = outputs(steps, lambda: run(torch.cuda.synchronize))
    assert not torch.stack(expected).isnan().any()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    for attempt in [graph.replay, run] * 5:
        for layer, (got, want) in enumerate(zip(outputs(steps, attempt), expected, strict=True)):
            assert torch.equal(got, want), f"layer {layer}"
