"""What only a card can show: CUDA graphs, streams, offsets beyond 32 bits, and the time of an append."""

from __future__ import annotations

import statistics

import pytest
import torch

from innerq_export import reference
from innerq_export.integrations import calls
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.spec import PRESETS, CacheConfig
from tests.kernels.side_by_side import POISON, SideBySide, lengths

pytestmark = pytest.mark.gpu
SMALL = CacheConfig(sink=4, recent=8)


@pytest.fixture
def library(gpu_kernels):
    return gpu_kernels.library


def test_one_captured_append_serves_every_step(gpu_kernels):
    """Lengths are read on the device: the same graph flushes or does not, as they say."""
    pair = SideBySide(gpu_kernels, SMALL.replace(value_mode="hybrid"))
    past, new = lengths(pair.past, "cuda"), lengths([1, 1], "cuda")
    key, value = (torch.zeros(2, 2, 1, 64, dtype=torch.float16, device="cuda") for _ in range(2))
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        calls.append(gpu_kernels.library, pair.cache, key, value, past, new)
        past += new
    for step in range(90):
        key.copy_(pair.random(1, step)), value.copy_(pair.random(1, step + 1000))
        graph.replay()
        pair.expected = reference.append(pair.expected, key.cpu(), value.cpu(), new.cpu())
    pair.check()


def test_streams_do_not_disturb_each_other(gpu_kernels):
    pairs = [SideBySide(gpu_kernels, PRESETS["hybrid"], head_dim=128, blocks=12) for _ in range(4)]
    streams = [torch.cuda.Stream() for _ in pairs]
    for tokens in (200, 1, 33, 1, 90):
        for index, (pair, stream) in enumerate(zip(pairs, streams, strict=True)):
            with torch.cuda.stream(stream):
                pair.append(pair.random(tokens, index), pair.random(tokens, index + 9))
    torch.cuda.synchronize()
    for pair in pairs:
        pair.check()


def test_offsets_beyond_32_bits(library):
    """Two sequences in a pool of 5.7 GB: the second one's records start 2.9 GB into it."""
    sizes = (PRESETS["base"], 2, 8, 128)
    small, large = (empty_packed_cache(*sizes, blocks, device="cuda") for blocks in (8, 100_000))
    large.blocks.fill_(POISON)
    torch.manual_seed(0)
    for tokens in (300, 1):
        key, value = (torch.randn(2, 8, tokens, 128, device="cuda").half() for _ in range(2))
        for cache in (small, large):
            past = lengths([0, 0] if tokens > 1 else [319, 319], "cuda")
            calls.append(library, cache, key, value, past, None)
    assert torch.equal(large.blocks[:, :, :5], small.blocks[:, :, :5])
    assert large.blocks[:, :, 6:7].eq(POISON).all() and large.blocks[:, :, -1].eq(POISON).all()


def event_times(launch, sets: int, repeats: int = 120) -> float:
    """Median microseconds of one launch by event pairs; the queue is filled behind a sleeping kernel."""
    for index in range(sets):
        launch(index)
    torch.cuda.synchronize()
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    torch.cuda._sleep(100_000_000)
    for index, (start, end) in enumerate(pairs):
        start.record()
        launch(index % sets)
        end.record()
    torch.cuda.synchronize()
    return statistics.median(1000 * start.elapsed_time(end) for start, end in pairs)


def graph_time(launch, sets: int) -> float:
    """Microseconds per launch of `sets` launches replayed in one CUDA graph, median of ten replays."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(sets):
            launch(index)
    return event_times(lambda _: graph.replay(), 1, 10) / sets


@pytest.mark.parametrize("name", ["balanced", "hybrid"])
@pytest.mark.parametrize("flush", [False, True])
def test_decode_append_takes_microseconds(library, name, flush, capsys):
    """B = 8, 8 KV heads, D = 128, caches rotated over more than 400 MB; a flush in every sequence, or in none."""
    config, sets = PRESETS[name], 80
    past = lengths([32 + 96 + 32 * 40 + (31 if flush else 3)] * 8, "cuda")
    caches = [empty_packed_cache(config, 8, 8, 128, 42, device="cuda") for _ in range(sets)]
    tokens = [torch.randn(2, 8, 8, 1, 128, device="cuda").half() for _ in range(sets)]

    def launch(index: int) -> None:
        calls.append(library, caches[index], *tokens[index], past, None)

    for cache in caches:
        cache.window_B2HkvWD.normal_()
    took = event_times(launch, sets)
    empty = event_times(lambda index: torch.cuda._sleep(1), sets)
    with capsys.disabled():
        graph, warm = graph_time(launch, sets), graph_time(lambda _: launch(0), sets)
        print(f"\nappend {name} flush={flush}: {took:.2f} us ev, {graph:.2f} us graph ({warm:.2f} us from L2)")
        print(f"a kernel that does nothing: {empty:.2f} us ev")
    assert took <= 10.0


@pytest.mark.parametrize("name", ["balanced", "hybrid"])
def test_prefill_append_runs_near_the_memory(library, name, capsys):
    """B = 1, 8 KV heads, D = 128, 32,768 tokens: share of the copy bandwidth by the bytes that must move."""
    config, tokens = PRESETS[name], 32_768
    cache = empty_packed_cache(config, 1, 8, 128, 1024, device="cuda")
    rows = [torch.randn(2, 1, 8, tokens, 128, device="cuda").half() for _ in range(4)]
    past = lengths([0], "cuda")
    took = event_times(lambda index: calls.append(library, cache, *rows[index], past, None), 4, 20)
    moved = rows[0].nbytes + cache.blocks.nbytes
    source, target = (torch.empty(1 << 30, dtype=torch.uint8, device="cuda") for _ in range(2))
    copy = event_times(lambda _: target.copy_(source), 1, 10)
    share = (moved / took) / (2 * source.nbytes / copy)
    with capsys.disabled():
        print(f"\nprefill append {name}: {took:.0f} us, {moved / took / 1e6:.2f} TB/s, {share:.0%} of copy bandwidth")
    assert share > 0.1
