"""What the C ABI refuses, and with which words; sizes; the comparison of these tests sees every kind of fault."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import pytest
import torch

from innerq_export.errors import UserError
from innerq_export.integrations import structs, views
from innerq_export.integrations.library import config_struct
from innerq_export.spec import BITS, MODES, PRESETS, CacheConfig, blocks_of, record_bytes, window_bytes
from tests.kernels.side_by_side import SideBySide


@pytest.fixture
def library(host_kernels):
    return host_kernels.library


def test_build_info(library):
    assert library.build.spec_version == 1
    assert library.build.architectures == "host"
    assert library.build.git_hash == "unknown" or len(library.build.git_hash.removesuffix("+dirty")) == 12


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_sizes_are_the_specs(library, head_dim):
    every = [CacheConfig(k, m, v, n) for k in BITS for v in BITS for m in MODES for n in MODES]
    for config in [*PRESETS.values(), *every]:
        struct = ctypes.byref(config_struct(config, head_dim, "fp16"))
        assert library.size_of("innerq_record_bytes", struct) == record_bytes(config, head_dim)
        assert library.size_of("innerq_blocks_bytes", struct, 3, 5, 7) == 105 * record_bytes(config, head_dim)
        assert library.size_of("innerq_window_bytes", struct, 3, 5) == 15 * window_bytes(config, head_dim)


def test_blocks_of_is_the_specs(library):
    config, blocks = CacheConfig(sink=4, recent=8), ctypes.c_int64()
    for tokens in range(200):
        struct = ctypes.byref(config_struct(config, 64, "fp16"))
        library.call("innerq_blocks_of", struct, tokens, ctypes.byref(blocks))
        assert blocks.value == blocks_of(config, tokens)


WRONG_CONFIG = {
    "struct_bytes": 44,
    "spec_version": 2,
    "head_dim": 80,
    "key_bits": 5,
    "key_mode": 4,
    "value_bits": 1,
    "value_mode": -1,
    "group_size": 64,
    "sink": -1,
    "recent": 1 << 21,
    "key_norm": 3,
    "activation": 2,
}


@pytest.mark.parametrize("field", WRONG_CONFIG)
def test_a_wrong_config_field_is_named(library, field):
    config = config_struct(CacheConfig(), 128, "fp16")
    setattr(config, field, WRONG_CONFIG[field])
    with pytest.raises(UserError, match=rf"config\.{field}: expected .*got {WRONG_CONFIG[field]}"):
        library.call("innerq_validate", ctypes.byref(config))


WRONG_CACHE = {
    "struct_bytes": (0, r"cache\.struct_bytes"),
    "batch": (0, "batch: expected 1"),
    "kv_heads": (1025, "kv_heads: expected 1 .. 1024"),
    "capacity_blocks": (-1, r"cache\.capacity_blocks"),
    "window_B2HkvWD": (None, r"cache\.window_B2HkvWD: expected a pointer, got NULL"),
    "blocks": (8, r"cache\.blocks: expected 16-byte alignment"),
    "key_norm_BHkvD": (None, r"cache\.key_norm_BHkvD"),
    "page_blocks": (0, r"cache\.page_blocks"),
    "pages": (0, r"cache\.pages"),
    "flags": (2, r"cache\.flags: expected 4-byte alignment"),
}


def append_args(tokens: int = 2):
    """(struct, tensors that keep its pointers alive) of an append to SideBySide's default shape."""
    rows, past = torch.zeros(2, 2, tokens, 64, dtype=torch.float16), torch.zeros(2, dtype=torch.int32)
    return views.append_view(rows, rows, past, None), (rows, past)


@pytest.mark.parametrize("field", WRONG_CACHE)
def test_a_wrong_cache_field_is_named(host_kernels, field):
    pair = SideBySide(host_kernels, pages=2)
    cache, (args, alive) = views.cache_view(pair.cache), append_args()
    value, words = WRONG_CACHE[field]
    setattr(cache, field, value)
    refs = [ctypes.byref(x) for x in (views.config_view(pair.cache), cache, args)]
    with pytest.raises(UserError, match=words):
        host_kernels.library.call("innerq_append", *refs, None, 0, None)
    assert alive


def test_wrong_tokens_are_named(host_kernels):
    pair = SideBySide(host_kernels)
    for change, words in {
        "args.struct_bytes = 1": r"append\.struct_bytes: expected \d+, got 1",
        "args.tokens = 0": r"append\.tokens: expected 1",
        "args.key_BHkvSD.data = None": r"append\.key_BHkvSD: expected a pointer, got NULL",
        "args.value_BHkvSD.data += 2": r"append\.value_BHkvSD: expected 16-byte alignment",
        "args.key_BHkvSD.stride_head = 4": r"append\.key_BHkvSD: expected strides .* 8, got 4",
        "args.past_length_B = None": r"append\.past_length_B",
    }.items():
        args, alive = append_args()
        exec(change)
        refs = [ctypes.byref(x) for x in (views.config_view(pair.cache), views.cache_view(pair.cache), args)]
        with pytest.raises(UserError, match=words):
            host_kernels.library.call("innerq_append", *refs, None, 0, None)
        assert alive


def test_a_small_workspace_is_refused(host_kernels):
    pair = SideBySide(host_kernels)
    args, alive = append_args(40)
    refs = [ctypes.byref(x) for x in (views.config_view(pair.cache), views.cache_view(pair.cache), args)]
    needed = host_kernels.library.size_of("innerq_append_workspace_bytes", *refs[:2], 40)
    with pytest.raises(UserError, match=f"workspace_bytes: expected at least {needed}, got {needed - 1}"):
        host_kernels.library.call("innerq_append", *refs, alive[0].data_ptr(), needed - 1, None)
    with pytest.raises(UserError, match="workspace: expected a pointer, got NULL"):
        host_kernels.library.call("innerq_append", *refs, None, needed, None)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [("query_heads", 3, "a multiple of kv_heads"), ("query_heads", 34, "2 .. 32"), ("tokens", 17, "1 .. 16")],
)
def test_wrong_attend_arguments_are_named(host_kernels, field, value, words):
    pair = SideBySide(host_kernels)
    rows, past = torch.zeros(2, 2, 2, 64, dtype=torch.float16), torch.zeros(2, dtype=torch.int32)
    args = views.attend_view(rows, rows, rows, rows, past, None)
    setattr(args, field, value)
    refs = [ctypes.byref(x) for x in (views.config_view(pair.cache), views.cache_view(pair.cache), args)]
    with pytest.raises(UserError, match=words):
        host_kernels.library.call("innerq_attend", *refs, None, 0, None)


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs binutils")
def test_nothing_but_the_c_abi_is_exported(library):
    command = ["nm", "-D", "--defined-only", "--format=posix", str(library.path)]
    names = {
        line.split()[0]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    }
    assert names == {*structs.FUNCTIONS, "innerq_last_message", "innerq_status_string"}


def test_statuses_have_names(library):
    name = library.function("innerq_status_string")
    name.restype = ctypes.c_char_p
    assert [name(status).decode() for status in range(6)] == list(structs.STATUS)
    assert name(99) == b"unknown innerq_status"


@pytest.mark.parametrize("place", ["key code", "key scale", "value code", "value scale", "block", "window", "lambda"])
def test_the_comparison_sees_one_wrong_bit(host_kernels, place):
    pair = SideBySide(host_kernels)
    pair.append(pair.random(100, 1), pair.random(100, 2))
    pair.check()
    words = {"key code": 0, "key scale": 192, "value code": 224, "value scale": 416}
    if place in words:
        pair.cache.blocks[1, 1, 1, words[place]] ^= 1
    elif place == "block":
        pair.cache.blocks[0, 0, [0, 1]] = pair.cache.blocks[0, 0, [1, 0]]
    elif place == "window":
        pair.cache.window_B2HkvWD[1, 1, 1, 43, 63] += 1
    else:
        pair.cache.key_norm_BHkvD[0, 0, 0] *= -1
    with pytest.raises(AssertionError):
        pair.check()
