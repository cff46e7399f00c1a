"""Whatever is wrong at run time ends as one logged error and a failed call, with the cache as it was."""

import pytest
import torch

from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import OPS
from tests.plugin.stack import CACHE, LEFT, Sizes, Stack, without_buffers

CONFIG = CacheConfig(sink=4, recent=8)
OP_NAMES = pytest.mark.parametrize("op", OPS)


@pytest.fixture
def stack(machine, tmp_path):
    made = Stack(machine, tmp_path, CONFIG, Sizes(layers=1, capacity=2))
    made.step([30, 20], seed=0)
    made.upload(0, made.random_step([3, 3], seed=1))
    return made


def cache_bytes(stack):
    types = {"window": torch.int16, "key_norm": torch.int16, "blocks": torch.int32}
    return [stack.read(stack.buffer(LEFT, 0, part), types[part], stack.shapes[part]) for part in CACHE]


def unharmed(stack, before):
    return all(torch.equal(old, new) for old, new in zip(before, cache_bytes(stack), strict=True))


def only_error(answer):
    errors = [line for line in answer["log"] if line.startswith("error: ")]
    assert answer["status"] == 1 and len(errors) == 1, answer
    return errors[0]


@OP_NAMES
@pytest.mark.parametrize("missing", ["descriptions", "inputs", "outputs"])
def test_missing_arrays(stack, op, missing):
    message = stack.host.refused("enqueue_null", f"c.{op}.0", missing, *stack.call_words(op, 0, 3))
    assert f"{op}: enqueue without tensor" in message


@OP_NAMES
def test_missing_tensors(stack, op):
    before = cache_bytes(stack)
    words = stack.call_words(op, 0, 3)
    for index, word in enumerate(words):
        if isinstance(word, str) and word.startswith("c.in.") and not word.endswith(".new"):
            changed = [*words[:index], "null", *words[index + 1 :]]
            answer = stack.host.call("enqueue", f"c.{op}.0", "0", "c.plugin.work", 1, *changed)
            assert "expected a pointer, got NULL" in only_error(answer)
    assert unharmed(stack, before)


@OP_NAMES
def test_wrong_shapes_at_run_time(stack, op):
    before = cache_bytes(stack)
    words = stack.call_words(op, 0, 3)
    place = words.index(CONFIG.window_tokens)
    changed = [*words[:place], CONFIG.window_tokens + 1, *words[place + 1 :]]
    assert "(W)" in only_error(stack.host.call("enqueue", f"c.{op}.0", "0", "c.plugin.work", 1, *changed))
    assert "(W)" in only_error(stack.host.call("shape_change", f"c.{op}.0", *without_buffers(changed)))
    assert unharmed(stack, before)


def test_caches_that_are_not_aliased_are_refused_with_the_remedy(stack):
    before = cache_bytes(stack)
    words = stack.call_words("InnerQAppend", 0, 3)
    for part in CACHE:
        place = len(words) - 1 - words[::-1].index(stack.buffer(LEFT, 0, part))
        changed = [*words[:place], stack.buffer("abi", 0, part), *words[place + 1 :]]
        message = only_error(stack.host.call("enqueue", "c.InnerQAppend.0", "0", "c.plugin.work", 1, *changed))
        assert f"'present_{part}'" in message and "kALIASED_PLUGIN_IO_10_03" in message
    assert unharmed(stack, before)


def test_exceeded_capacity_fails_the_next_call_and_harms_nothing(stack):
    """Two blocks hold 76 tokens and up to 31 more: 100 after 30 do not fit in sequence 0 and 1."""
    before = cache_bytes(stack)
    stack.past = torch.tensor([30, 20], dtype=torch.int32)
    stack.upload(0, stack.random_step([100, 100], seed=2))
    stack.enqueue("InnerQAppend", 0, 100)
    stack.host.ok("sync", "0")
    assert unharmed(stack, before)
    stack.upload(0, stack.random_step([1, 1], seed=3))
    message = only_error(stack.enqueue("InnerQAppend", 0, 1))
    assert "2 blocks" in message and "unharmed" in message
    assert unharmed(stack, before)
    assert stack.enqueue("InnerQAppend", 0, 1)["status"] == 0


def test_impossible_lengths_fail_the_next_call_and_harm_nothing(stack):
    before = cache_bytes(stack)
    stack.write(stack.buffer("in", 0, "new"), torch.tensor([7, -1], dtype=torch.int32))
    stack.enqueue("InnerQAppend", 0, 3)
    stack.host.ok("sync", "0")
    assert "new_length" in only_error(stack.enqueue("InnerQAppend", 0, 3))
    assert unharmed(stack, before)


@pytest.mark.gpu
def test_a_missing_workspace_is_an_error(gpu, tmp_path):
    stack = Stack(gpu, tmp_path, CONFIG, Sizes(layers=1))
    stack.upload(0, stack.random_step([40, 40], seed=0))
    words = stack.call_words("InnerQAttention", 0, 40)
    assert "workspace" in only_error(gpu.call("enqueue", "c.InnerQAttention.0", "0", "null", 1, *words))


@pytest.mark.parametrize("past", [[2**31 - 1, 20], [-5, -(2**31)], [2**31 - 3, 2**30]])
@pytest.mark.parametrize("tokens", [3, 40])
def test_garbage_lengths_do_no_harm(stack, past, tokens):
    """Nothing outside the tensors is read or written (compute-sanitizer sees it), and no cache changes."""
    before = cache_bytes(stack)
    stack.upload(0, stack.random_step([tokens, tokens], seed=4))
    stack.write(stack.buffer("in", 0, "past"), torch.tensor(past, dtype=torch.int64).int())
    for op in OPS:
        assert stack.enqueue(op, 0, tokens)["status"] == 0
        assert stack.host.ok("sync", "0")["cuda_error"] == ""
    kept = [index for index, length in enumerate(past) if not 0 <= length <= 20]
    for old, new in zip(before, cache_bytes(stack), strict=True):
        assert torch.equal(old[kept], new[kept])
