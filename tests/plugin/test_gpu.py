"""What only a GPU shows: contexts on streams of their own, CUDA graphs, and the time a call costs the CPU."""

import pytest
import torch

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import OPS
from tests.plugin.stack import Sizes, Stack

pytestmark = pytest.mark.gpu
CONFIG = CacheConfig(sink=4, recent=8)
EXTRA_NANOSECONDS = 3000
"""Issue 4's bar: what a plugin call may cost the CPU beyond the same call of the C ABI."""


def test_two_contexts_on_two_streams(gpu, tmp_path):
    """Both contexts' layers are issued in turn without waiting; each equals its own run through the C ABI."""
    stacks = []
    for name in ("a", "b"):
        gpu.ok("stream", name)
        stacks.append(Stack(gpu, tmp_path, CONFIG, Sizes(layers=3), name=name, stream=name))
    for index, new in enumerate(([150, 131], [7, 3], [1, 1], [1, 1])):
        for stack in stacks:
            for layer in range(3):
                stack.upload(layer, stack.random_step(new, seed=10 * index + layer + 5 * (stack.name == "b")))
        for layer in range(3):
            for stack in stacks:
                stack.run_plugin(layer, max(new))
        for stack in stacks:
            for layer in range(3):
                stack.run_abi(layer, max(new))
                stack.check_equal(layer)
            stack.past += torch.tensor(new, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_a_llama_sized_stack(gpu, tmp_path, dtype):
    """Four layers of 32 query and 8 KV heads, ragged prompts in chunks, decoding past a flush."""
    sizes = Sizes(batch=3, heads=32, kv_heads=8, head_dim=128, layers=4, capacity=32, dtype=dtype)
    stack = Stack(gpu, tmp_path, CacheConfig(), sizes)
    for index, new in enumerate(([500, 333, 64], [129, 16, 7], [8, 8, 8], *[[1, 1, 1]] * 6)):
        stack.step(new, seed=index, check=False)  # asserts that plugin and C ABI are equal bit for bit
    assert stack.past.tolist() == [643, 363, 85]


def test_a_decode_step_replays_as_a_cuda_graph(gpu, tmp_path):
    """Lengths and tokens change between replays, blocks are flushed; every replay equals the C ABI."""
    gpu.ok("stream", "g")
    stack = Stack(gpu, tmp_path, CONFIG, Sizes(layers=2), stream="g")
    stack.step([150, 131], seed=0)
    for layer in range(2):
        stack.upload(layer, stack.random_step([1, 1], seed=layer))
        stack.run_plugin(layer, 1)
        stack.run_abi(layer, 1)
    gpu.ok("sync", "g")
    stack.past += 1
    gpu.ok("capture", "g")
    for layer in range(2):
        stack.run_plugin(layer, 1, change=False)
    gpu.ok("captured", "decode", "g")
    for index in range(40):
        for layer in range(2):
            refill(stack, layer, seed=100 + 2 * index + layer)
        gpu.ok("launch", "decode", "g")
        for layer in range(2):
            stack.run_abi(layer, 1)
            stack.check_equal(layer)
        stack.past += 1


def refill(stack, layer, seed):
    """Write new tokens and lengths into the buffers that the graph was captured with."""
    step = stack.random_step([1, 1], seed=seed)
    inputs = {"query": step.query, "key": step.key, "value": step.value, "past": stack.past}
    for name, tensor in inputs.items():
        stack.write(stack.buffer("in", layer, name), tensor)


@pytest.mark.parametrize("tokens", [1, 64])
def test_a_plugin_call_costs_the_cpu_little_more_than_the_bare_kernel(gpu, tmp_path, tokens, capsys):
    sizes = Sizes(batch=8, heads=32, kv_heads=8, head_dim=128, layers=1, capacity=64)
    stack = Stack(gpu, tmp_path, CacheConfig(), sizes)
    stack.upload(0, stack.random_step([tokens] * 8, seed=0))
    for op in OPS:
        times = {"plugin": [], "C ABI": []}
        for _ in range(7):
            times["plugin"].append(stack.enqueue(op, 0, tokens, repeat=100)["nanoseconds"])
            gpu.ok("sync", "0")
            append, attend = stack.run_abi(0, tokens, repeat=100)
            times["C ABI"].append((append if op == "InnerQAppend" else attend)["nanoseconds"])
            gpu.ok("sync", "0")
        plugin, bare = (sorted(times[side])[3] for side in ("plugin", "C ABI"))
        with capsys.disabled():
            print(f"\n{op}, {tokens} tokens: plugin {plugin / 1000:.2f} us, C ABI {bare / 1000:.2f} us of CPU per call")
        assert plugin - bare <= EXTRA_NANOSECONDS


def test_a_cuda_error_is_a_failed_call_and_the_next_one_works(gpu, tmp_path):
    """Launches into a stream whose capture was spoilt fail in CUDA; afterwards the same context goes on."""
    gpu.ok("stream", "s")
    stack = Stack(gpu, tmp_path, CONFIG, Sizes(layers=1), stream="s")
    stack.step([20, 20], seed=0)
    stack.upload(0, stack.random_step([1, 1], seed=1))
    gpu.ok("capture", "s")
    assert "failed" in gpu.call("sync", "s")
    for op in OPS:
        answer = stack.enqueue(op, 0, 1)
        assert answer["status"] == 1 and "INNERQ_CUDA_ERROR" in answer["log"][0], answer
    assert "failed" in gpu.call("captured", "spoilt", "s")
    gpu.call("sync", "s")
    stack.step([1, 1], seed=2)
