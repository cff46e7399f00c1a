"""A whole layer stack through the plugin: bit for bit the C ABI, and the reference within the op's tolerance."""

import dataclasses

import pytest
import torch

from innerq_export.spec import PRESETS, CacheConfig
from innerq_export.spec.ops import ATTENTION
from tests.plugin.stack import Sizes, Stack

SMALL = {"sink": 4, "recent": 8}
CASES = {
    "balanced fp16": (CacheConfig(**SMALL), Sizes()),
    "compact bf16": (PRESETS["compact"].replace(**SMALL), Sizes(dtype=torch.bfloat16)),
    "hybrid D 128": (PRESETS["hybrid"].replace(**SMALL), Sizes(head_dim=128, layers=1)),
    "no window, norm none": (CacheConfig(sink=0, recent=0, key_norm="none"), Sizes(layers=1)),
    "asymmetric 4/8 bits": (CacheConfig(4, "asymmetric", 8, "asymmetric", **SMALL), Sizes(heads=2, layers=1)),
}
STEPS = [[150, 131], [5, 16], [0, 3], [17, 20], *[[1, 1]] * 6, [1, 0], [1, 1]]


@pytest.mark.parametrize("case", CASES)
def test_prefill_chunks_and_decoding(machine, tmp_path, case):
    config, sizes = CASES[case]
    stack = Stack(machine, tmp_path, config, sizes)
    least = ATTENTION.tolerance.min_db[{"half": "float16", "bf16": "bfloat16"}[sizes.kind]]
    for index, new in enumerate(STEPS):
        worst = stack.step(new, seed=index)
        assert worst >= least, f"step {index} {new}: {worst:.1f} dB, expected at least {least}"


@pytest.mark.parametrize("tokens", [150, 5])
def test_one_wrong_token_is_seen(machine, tmp_path, tokens):
    """Mutation: the comparison notices one changed key, and the tolerance a query that is 2% too long."""
    stack = Stack(machine, tmp_path, CacheConfig(**SMALL), Sizes(layers=1))
    stack.step([60, 60], seed=0)
    step = stack.random_step([tokens, tokens], seed=1)
    stack.upload(0, step)
    stack.run_plugin(0, tokens)
    longer = dataclasses.replace(step, query=step.query * 1.02)
    before = stack.references[0]
    assert stack.check_reference(0, longer) < ATTENTION.tolerance.min_db["float16"]
    stack.references[0] = before
    assert stack.check_reference(0, step) >= ATTENTION.tolerance.min_db["float16"]
    stack.references[0] = before
    step.key[0, 0, 0] += 1.0
    if tokens > 32:
        with pytest.raises(AssertionError, match="records"):
            stack.check_reference(0, step)


def test_clones_keep_the_shapes_of_their_source(machine, tmp_path):
    stack = Stack(machine, tmp_path, CacheConfig(**SMALL), Sizes(layers=1))
    stack.step([20, 20], seed=1)
    machine.ok("clone", "c.InnerQAppend.0", "c.InnerQAppend.copy")
    machine.ok("clone", "c.InnerQAppend.copy", "c.InnerQAppend.0")
    assert stack.step([20, 20], seed=2) >= ATTENTION.tolerance.min_db["float16"]
