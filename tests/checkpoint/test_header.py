import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from innerq_export.checkpoint.header import ITEM_BYTES, read_header
from innerq_export.errors import CheckpointError
from tests.checkpoint.safetensors_file import GOOD, changed, write, write_raw


def test_reads_what_safetensors_writes(tmp_path):
    arrays = {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "y": np.ones((4, 1), np.float32), "e": np.ones((0, 3))}
    file = tmp_path / "m.safetensors"
    save_file(arrays, file, metadata={"format": "pt"})
    refs = read_header(file)
    assert refs.keys() == arrays.keys()
    data = file.read_bytes()
    for name, array in arrays.items():
        ref = refs[name]
        got = np.frombuffer(data[ref.offset : ref.offset + ref.nbytes], array.dtype).reshape(ref.shape)
        np.testing.assert_array_equal(got, array)


def test_the_hand_made_file_is_good(tmp_path):
    assert {name: ref.shape for name, ref in read_header(write(tmp_path / "m")).items()} == {
        "a": (2, 3),
        "b": (2,),
        "scalar": (),
    }


BROKEN_TENSORS = {
    "unknown dtype": changed("a", dtype="F12"),
    "dtype no string": changed("a", dtype=16),
    "negative size": changed("a", shape=[-2, -3]),
    "float size": changed("a", shape=[2.0, 3]),
    "boolean size": changed("b", shape=[True, 2]),
    "huge size": changed("a", shape=[1 << 70]),
    "too many axes": changed("a", shape=[1] * 40 + [2, 3]),
    "shape no list": changed("a", shape=6),
    "offsets reversed": changed("a", data_offsets=[12, 0]),
    "offsets negative": changed("a", data_offsets=[-12, 0]),
    "one offset": changed("a", data_offsets=[0]),
    "size against shape": changed("a", shape=[2, 4]),
    "overlap": changed("b", data_offsets=[10, 18]),
    "hole": changed("b", shape=[1], data_offsets=[16, 20]),
    "no dtype": GOOD | {"a": {"shape": [2, 3], "data_offsets": [0, 12]}},
    "no object": GOOD | {"a": [1, 2, 3]},
}


@pytest.mark.parametrize("header", BROKEN_TENSORS.values(), ids=BROKEN_TENSORS.keys())
def test_a_malformed_tensor_is_named(tmp_path, header):
    with pytest.raises(CheckpointError, match=r"tensor '(a|b|scalar)' is malformed"):
        read_header(write(tmp_path / "m", header))


BROKEN_FILES = {
    "empty": b"",
    "seven bytes": bytes(7),
    "length only": (1 << 20).to_bytes(8, "little"),
    "absurd length": (1 << 63).to_bytes(8, "little") + b"{}",
    "length of all but the prefix and one more": (3).to_bytes(8, "little") + b"{}",
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94.",
}


@pytest.mark.parametrize("content", BROKEN_FILES.values(), ids=BROKEN_FILES.keys())
def test_a_broken_file_is_refused(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated, or not a safetensors file"):
        read_header(tmp_path / "m")


BROKEN_JSON = {
    "not UTF-8": b'{"\xff": {}}',
    "not JSON": b"{'a': 1}",
    "a list": b"[1, 2]",
    "a key twice": b'{"a": {}, "a": {}}',
    "deep nesting": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "digits without end": b'{"a": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("header", BROKEN_JSON.values(), ids=BROKEN_JSON.keys())
def test_a_header_that_is_no_json_object_is_refused(tmp_path, header):
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_header(write_raw(tmp_path / "m", header))


@pytest.mark.parametrize(("size", "kind"), [(21, "truncated"), (23, "longer than its tensors")])
def test_file_size_must_match(tmp_path, size, kind):
    with pytest.raises(CheckpointError, match=kind):
        read_header(write(tmp_path / "m", data=bytes(size)))


def test_devices_folders_and_link_loops_are_refused(tmp_path):
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("zero", "regular"), ("pipe", "regular"), ("", "regular"), ("loop", "cannot be read")):
        with pytest.raises(CheckpointError, match=message):
            read_header(tmp_path / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*ITEM_BYTES, "F4"]) | json_values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=300, deadline=None)
@given(
    header=st.dictionaries(st.text(max_size=6), entries | json_values, max_size=4) | json_values,
    data=st.binary(max_size=40),
)
def test_any_header_gives_refs_inside_the_file_or_a_clear_error(tmp_path_factory, header, data):
    file = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    check_fuzzed(write(file, header, data))


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 60))
def test_any_damaged_byte_gives_refs_inside_the_file_or_a_clear_error(tmp_path_factory, position, byte, cut):
    file = write(tmp_path_factory.getbasetemp() / "damaged.safetensors")
    content = bytearray(file.read_bytes())
    content[position % len(content)] = byte
    file.write_bytes(content[: len(content) - cut])
    check_fuzzed(file)


def check_fuzzed(file):
    size = file.stat().st_size
    try:
        refs = read_header(file)
    except CheckpointError as error:
        assert str(file) in str(error)
        return
    end = 8 + len_of_header(file)
    for ref in sorted(refs.values(), key=lambda ref: (ref.offset, ref.nbytes)):
        assert ref.offset == end
        end += ref.nbytes
    assert end == size


def len_of_header(file):
    length = int.from_bytes(file.read_bytes()[:8], "little")
    json.loads(file.read_bytes()[8 : 8 + length])
    return length
