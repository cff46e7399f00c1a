from __future__ import annotations

import pytest
import torch

from innerq_export import reference
from innerq_export.errors import ConfigError, UserError
from innerq_export.integrations import torch_ops
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.integrations.cpu import to_reference
from innerq_export.spec import PRESETS

SMALL = PRESETS["hybrid"].replace(sink=4, recent=8)
HEADS, KV_HEADS, HEAD_DIM, BLOCKS = 4, 2, 64, 4


def lengths(*values):
    return torch.tensor(values, dtype=torch.int32)


# tokens of the two sequences -> q = 1 and 0 blocks; three and one more tokens make it 2 and 0
def filled(new_tokens, page_blocks=0, past=(74, 9)):
    cache = empty_packed_cache(SMALL, 2, KV_HEADS, HEAD_DIM, BLOCKS, page_blocks=page_blocks)
    key, value = new_tokens(tokens=max(past), seed=1), new_tokens(tokens=max(past), seed=2)
    torch_ops.append(cache, key, value, lengths(0, 0), lengths(*past))
    return cache, lengths(*past)


def plain_reference(new_tokens, past=(74, 9)):
    cache = reference.empty_cache(SMALL, 2, KV_HEADS, HEAD_DIM, BLOCKS)
    key, value = new_tokens(tokens=max(past), seed=1), new_tokens(tokens=max(past), seed=2)
    return reference.append(cache, key, value, lengths(*past))


@pytest.mark.parametrize("page_blocks", [0, 1, 2])
def test_append_and_attend_are_the_reference(new_tokens, page_blocks):
    cache, past = filled(new_tokens, page_blocks)
    expected = plain_reference(new_tokens)
    query, key, value = new_tokens(heads=HEADS), new_tokens(seed=3), new_tokens(seed=4)
    new = lengths(3, 1)
    torch_ops.append(cache, key, value, past, new)
    expected = reference.append(expected, key, value, new)
    got = to_reference(cache, past + new)
    assert torch.equal(got.window_B2HkvWD, expected.window_B2HkvWD)
    assert torch.equal(got.key_norm_BHkvD, expected.key_norm_BHkvD)
    for name, tensor in got.blocks.tensors().items():
        for b, held in enumerate([2, 0]):
            assert torch.equal(tensor[b, :, :held], expected.blocks.tensors()[name][b, :, :held]), name
    out = torch_ops.attend(cache, query, key, value, past, new)
    assert torch.equal(out, reference.attend(expected, query, key, value, past, new))


def test_pages_may_lie_anywhere(new_tokens):
    straight, past = filled(new_tokens, page_blocks=2)
    order = torch.tensor([3, 0, 2, 1])
    mixed = empty_packed_cache(SMALL, 2, KV_HEADS, HEAD_DIM, BLOCKS, page_blocks=2)
    mixed.block_table_BP.copy_(order.to(torch.int32).view(2, 2))
    key, value = new_tokens(tokens=74, seed=1), new_tokens(tokens=74, seed=2)
    torch_ops.append(mixed, key, value, lengths(0, 0), past)
    assert torch.equal(mixed.blocks[order], straight.blocks)
    assert not torch.equal(mixed.blocks, straight.blocks)


def arguments(new_tokens):
    cache, past = filled(new_tokens)
    query, key, value = new_tokens(heads=HEADS), new_tokens(seed=3), new_tokens(seed=4)
    caches, constants = torch_ops._caches(cache), torch_ops.constants_of(SMALL)
    append = (key, value, past, lengths(3, 1), *caches, *constants)
    attend = (query, key, value, past - lengths(3, 1), lengths(3, 1), *caches, *constants, 0.0)
    return append, attend


def test_opcheck(new_tokens):
    append, attend = arguments(new_tokens)
    torch.library.opcheck(torch.ops.innerq.append.default, append)
    torch.library.opcheck(torch.ops.innerq.attend.default, attend)


class Layer(torch.nn.Module):
    def forward(self, query, key, value, past, new, window, key_norm, blocks, flags):
        caches = (window, key_norm, blocks, flags, None)
        constants = torch_ops.constants_of(SMALL)
        torch.ops.innerq.append(key, value, past, new, *caches, *constants)
        return torch.ops.innerq.attend(query, key, value, past, new, *caches, *constants, 0.0) * 2


def layer_inputs(new_tokens):
    cache, past = filled(new_tokens)
    query, key, value = new_tokens(heads=HEADS), new_tokens(seed=3), new_tokens(seed=4)
    return (query, key, value, past, lengths(3, 1), *torch_ops._caches(cache)[:-1])


def test_compiles_without_a_graph_break(new_tokens):
    expected_inputs, inputs = layer_inputs(new_tokens), layer_inputs(new_tokens)
    expected = Layer()(*expected_inputs)
    got = torch.compile(Layer(), fullgraph=True, backend="aot_eager")(*inputs)
    assert torch.equal(got, expected)
    for left, right in zip(inputs, expected_inputs, strict=True):
        assert torch.equal(left, right)


def test_exports_with_the_cache_mutation_in_place(new_tokens):
    program = torch.export.export(Layer(), layer_inputs(new_tokens))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert [name for name in names if "innerq" in name] == ["innerq.append.default", "innerq.attend.default"]
    expected_inputs, inputs = layer_inputs(new_tokens), layer_inputs(new_tokens)
    assert torch.equal(program.module()(*inputs), Layer()(*expected_inputs))
    assert torch.equal(inputs[7], expected_inputs[7])


def test_wrong_tensors_are_named(new_tokens):
    cache, past = filled(new_tokens)
    with pytest.raises(ConfigError, match="'key_norm'"):
        broken = type(cache)(**{**cache.__dict__, "key_norm_BHkvD": cache.key_norm_BHkvD.float()})
        torch_ops.append(broken, new_tokens(), new_tokens(), past, lengths(1, 1))
    with pytest.raises(ConfigError, match="'window'"):
        broken = type(cache)(**{**cache.__dict__, "config": SMALL.replace(recent=9)})
        torch_ops.append(broken, new_tokens(), new_tokens(), past, lengths(1, 1))
    with pytest.raises(UserError, match="capacity"):
        torch_ops.append(cache, new_tokens(tokens=99), new_tokens(tokens=99), past, lengths(99, 0))
