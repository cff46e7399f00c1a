"""The very calls that CUDA tensors take, through the host build: in-place append, attend, dequantise, errors."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from innerq_export import reference
from innerq_export.errors import ConfigError
from innerq_export.integrations import calls, structs
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.integrations.cpu import to_reference
from innerq_export.integrations.library import KernelError, config_struct
from innerq_export.spec import PRESETS, preset, record_bytes

BATCH, KV_HEADS, HEADS, HEAD_DIM, BLOCKS = 2, 2, 4, 64, 4


def lengths(*values):
    return torch.tensor(values, dtype=torch.int32)


def pair(name, dtype=torch.float16, page_blocks=0):
    config = preset(name).replace(sink=4, recent=8)
    packed = empty_packed_cache(config, BATCH, KV_HEADS, HEAD_DIM, BLOCKS, dtype=dtype, page_blocks=page_blocks)
    return packed, reference.empty_cache(config, BATCH, KV_HEADS, HEAD_DIM, BLOCKS, dtype)


def same_cache(packed, expected):
    got = to_reference(packed, expected.length_B)
    assert torch.equal(got.window_B2HkvWD, expected.window_B2HkvWD)
    assert torch.equal(got.key_norm_BHkvD, expected.key_norm_BHkvD)
    for name, tensor in got.blocks.tensors().items():
        for b in range(BATCH):
            held = expected.blocks_held(b)
            assert torch.equal(tensor[b, :, :held], expected.blocks.tensors()[name][b, :, :held]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("page_blocks", [0, 2])
@pytest.mark.parametrize("name", PRESETS)
def test_chunks_equal_the_reference(host_library, new_tokens, name, page_blocks, dtype):
    packed, expected = pair(name, dtype, page_blocks)
    past = lengths(0, 0)
    for seed, new in enumerate([lengths(5, 60), lengths(70, 0), lengths(1, 1), lengths(3, 2)]):
        tokens = int(new.max())
        shape = {"tokens": tokens, "dtype": dtype, "batch": BATCH, "heads": KV_HEADS}
        key, value = new_tokens(seed=10 + seed, **shape), new_tokens(seed=20 + seed, **shape)
        calls.append(host_library, packed, key, value, past, new)
        expected = reference.append(expected, key, value, new)
        same_cache(packed, expected)
        if tokens <= structs.MAX_ATTEND_TOKENS:
            query = new_tokens(heads=HEADS, tokens=tokens, dtype=dtype, seed=30)
            got = calls.attend(host_library, packed, query, key, value, past, new)
            wanted = reference.attend(expected, query, key, value, past, new)
            tolerance = 2e-3 if dtype == torch.float16 else 8e-3
            assert torch.linalg.vector_norm(got.float() - wanted.float()) <= tolerance * wanted.float().norm()
        past = past + new
    assert packed.flags.item() == 0


def test_dequantise_gives_the_history(host_library, new_tokens):
    packed, expected = pair("hybrid")
    key, value, past = new_tokens(tokens=90, seed=1), new_tokens(tokens=90, seed=2), lengths(90, 33)
    calls.append(host_library, packed, key, value, lengths(0, 0), past)
    expected = reference.append(expected, key, value, past)
    got = calls.dequantise(host_library, packed, past, 95)
    for ours, reference_rows in zip(got, reference.dequantised_history(expected, past), strict=True):
        assert torch.equal(ours[:, :, :90], reference_rows.half())
        assert not ours[:, :, 90:].any()


def test_strided_tokens_are_read_in_place(host_library, new_tokens):
    packed, _ = pair("balanced")
    straight, _ = pair("balanced")
    key, value = new_tokens(tokens=20, seed=1), new_tokens(tokens=20, seed=2)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (key, value)]
    calls.append(host_library, packed, *strided, lengths(0, 0), None)
    calls.append(host_library, straight, key, value, lengths(0, 0), None)
    assert torch.equal(packed.window_B2HkvWD, straight.window_B2HkvWD)


def test_no_room_sets_the_flag_and_harms_nothing(host_library, new_tokens):
    packed, _ = pair("balanced")
    key, value = new_tokens(tokens=100, seed=1), new_tokens(tokens=100, seed=2)
    calls.append(host_library, packed, key, value, lengths(0, 0), None)
    before = [x.clone() for x in (packed.window_B2HkvWD, packed.blocks, packed.key_norm_BHkvD)]
    calls.append(host_library, packed, key, value, lengths(100, 100), None)
    assert packed.flags.item() & structs.FLAG_CAPACITY
    for left, right in zip(before, (packed.window_B2HkvWD, packed.blocks, packed.key_norm_BHkvD), strict=True):
        assert torch.equal(left, right)


def test_statuses_become_errors_with_the_librarys_words(host_library):
    bad = config_struct(preset("balanced"), 96, "fp16")
    with pytest.raises(KernelError, match="head_dim") as caught:
        host_library.call("innerq_validate", bad)
    assert caught.value.status == "INNERQ_INVALID_ARGUMENT"


def test_sizes_agree(host_library):
    for config in PRESETS.values():
        for head_dim in (64, 128, 256):
            struct = config_struct(config, head_dim, "fp16")
            assert host_library.size_of("innerq_record_bytes", struct) == record_bytes(config, head_dim)


def test_wrong_tensors_are_refused_before_the_call(host_library, new_tokens):
    packed, _ = pair("balanced")
    with pytest.raises(ConfigError, match="'value'"):
        calls.append(host_library, packed, new_tokens(), new_tokens(tokens=2), lengths(0, 0), None)
    with pytest.raises(ConfigError, match="'past_length'"):
        calls.append(host_library, packed, new_tokens(), new_tokens(), lengths(0, 0).long(), None)
    with pytest.raises(ConfigError, match="'query'"):
        calls.attend(host_library, packed, new_tokens(heads=3), new_tokens(), new_tokens(), lengths(0, 0), None)
    with pytest.raises(ConfigError, match="'blocks'"):
        broken = dataclasses.replace(packed, blocks=packed.blocks[..., :-1])
        calls.append(host_library, broken, new_tokens(), new_tokens(), lengths(0, 0), None)
    with pytest.raises(ConfigError, match="contiguous"):
        broken = dataclasses.replace(
            packed, window_B2HkvWD=packed.window_B2HkvWD.transpose(0, 1).contiguous().transpose(0, 1)
        )
        calls.append(host_library, broken, new_tokens(), new_tokens(), lengths(0, 0), None)
