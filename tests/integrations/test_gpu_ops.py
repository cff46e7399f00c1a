"""The torch ops and the bare kernels on a card: bit-equal caches, attention within 2e-3 of fp64, graphs, prefill."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from innerq_export import reference
from innerq_export.bench.cases import Case
from innerq_export.bench.inputs import random_step
from innerq_export.bench.oracle import attend64
from innerq_export.bench.ours import attend_checked, relative_error
from innerq_export.integrations import torch_ops
from innerq_export.integrations.cache import PackedCache, empty_packed_cache
from innerq_export.integrations.cpu import to_reference
from innerq_export.spec import PRESETS, preset

pytestmark = pytest.mark.gpu
MAX_ERROR = {torch.float16: 2e-3, torch.bfloat16: 8e-3}
HEADS = ((1, 1), (4, 4), (8, 2), (8, 1), (14, 2), (16, 1))


def lengths(*values, device="cpu"):
    return torch.tensor(values, dtype=torch.int32, device=device)


def on_cpu(cache):
    moved = {f.name: getattr(cache, f.name) for f in dataclasses.fields(cache)}
    return PackedCache(**{name: x.cpu() if torch.is_tensor(x) else x for name, x in moved.items()})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("page_blocks", [0, 2])
@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_ops_in_chunks_equal_the_reference(cuda_library, new_tokens, name, page_blocks, dtype, head_dim):
    config = preset(name).replace(sink=4, recent=8)
    cache = empty_packed_cache(config, 2, 2, head_dim, 8, dtype=dtype, device="cuda", page_blocks=page_blocks)
    expected, past = reference.empty_cache(config, 2, 2, head_dim, 8, dtype), lengths(0, 0)
    for seed, new in enumerate([lengths(5, 100), lengths(90, 0), lengths(1, 1), lengths(3, 16), lengths(30, 40)]):
        tokens = int(new.max())
        shape = {"tokens": tokens, "dtype": dtype, "head_dim": head_dim}
        query = new_tokens(heads=8, seed=30 + seed, **shape)
        key, value = new_tokens(seed=10 + seed, **shape), new_tokens(seed=20 + seed, **shape)
        there = [x.cuda() for x in (key, value, past, new)]
        torch_ops.append(cache, *there)
        got = torch_ops.attend(cache, query.cuda(), *there).cpu()
        expected = reference.append(expected, key, value, new)
        held = to_reference(on_cpu(cache), expected.length_B)
        assert torch.equal(held.window_B2HkvWD, expected.window_B2HkvWD)
        assert torch.equal(held.key_norm_BHkvD, expected.key_norm_BHkvD)
        for part, tensor in held.blocks.tensors().items():
            for b in range(2):
                made = expected.blocks_held(b)
                assert torch.equal(tensor[b, :, :made], expected.blocks.tensors()[part][b, :, :made]), part
        wanted = reference.attend(expected, query.double(), key, value, past, new)
        assert relative_error(got, wanted) <= MAX_ERROR[dtype]
        past = past + new


def attend_error(case, seed, query_scale=1.0):
    step = random_step(case, torch.device("cuda"), torch.Generator("cuda").manual_seed(seed), query_scale)
    return relative_error(attend_checked(_library(), step), attend64(step))


def _library():
    from innerq_export.integrations.library import default_library

    return default_library("cuda")


@pytest.mark.parametrize("layout", ["plain", "paged"])
@pytest.mark.parametrize("name", PRESETS)
def test_attend_at_every_boundary(cuda_library, name, layout):
    boundaries = [1, 2, 31, 32, 33, 96, 127, 128, 129, 159, 160, 161, 191, 192, 193, 224, 1000, 4097, 9999]
    for tokens, (query_heads, kv_heads) in itertools.product(boundaries, HEADS):
        case = Case(name, 3, query_heads, kv_heads, tokens, layout=layout)
        assert attend_error(case, tokens) <= 2e-3, case


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("name", PRESETS)
def test_attend_with_a_peaked_softmax_and_every_head_dim(cuda_library, name, head_dim):
    for batch, scale in itertools.product((1, 5), (1.0, 8.0)):
        case = Case(name, batch, 8, 2, 3333, head_dim=head_dim, layout="paged")
        assert attend_error(case, batch, scale) <= 2e-3, (case, scale)


def test_a_wrong_code_would_show(cuda_library):
    step = random_step(Case("balanced", 1, 8, 2, 400), torch.device("cuda"), torch.Generator("cuda").manual_seed(1))
    expected = attend64(step)
    step.cache.blocks.view(torch.int16)[..., 0] ^= 0x00FF
    assert relative_error(attend_checked(cuda_library, step), expected) > 2e-3


def test_a_decode_step_in_a_cuda_graph(cuda_library, new_tokens):
    config = preset("balanced")
    caches = [empty_packed_cache(config, 2, 2, 128, 20, device="cuda") for _ in range(2)]
    prompt = [new_tokens(tokens=200, head_dim=128, seed=seed).cuda() for seed in (1, 2)]
    past, one = lengths(200, 187, device="cuda"), lengths(1, 1, device="cuda")
    for cache in caches:
        torch_ops.append(cache, *prompt, torch.zeros_like(past), past)
    query = new_tokens(heads=8, tokens=1, head_dim=128, seed=3).cuda()
    key, value = (new_tokens(tokens=1, head_dim=128, seed=seed).cuda() for seed in (4, 5))
    at = past.clone()

    def step(cache):
        torch_ops.append(cache, key, value, at, one)
        return torch_ops.attend(cache, query, key, value, at, one)

    expected = []
    for _ in range(40):
        expected.append(step(caches[0]).clone())
        at += 1
    at.copy_(past)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(caches[1])
    for wanted in expected:
        graph.replay()
        assert torch.equal(out, wanted)
        at += 1
    assert torch.equal(caches[0].blocks, caches[1].blocks)
