import dataclasses

import numpy as np
import pytest
from safetensors.numpy import save_file

from innerq_export.artifacts import KeyNorm
from innerq_export.checkpoint.key_norm import folded, read_key_norm, write_key_norm
from innerq_export.errors import CheckpointError, ConfigError, UserError

META = {"format": "innerq_export key_norm 1", "checkpoint": "abc", "text": "t.txt", "tokens": "7"}


def some(values=2.0, shape=(2, 2, 64)):
    return KeyNorm(np.full(shape, values, np.float16), "abc", "t.txt", 7)


def test_what_is_written_is_read_back(tmp_path):
    norm = some(np.linspace(0.5, 9, 256).reshape(2, 2, 64))
    write_key_norm(norm, tmp_path / "k.safetensors")
    found = read_key_norm(tmp_path / "k.safetensors")
    np.testing.assert_array_equal(found.lambda_LHkvD, norm.lambda_LHkvD)
    assert (found.checkpoint, found.text, found.tokens) == ("abc", "t.txt", 7)
    assert found.summary == "calibrated on 7 tokens of t.txt, lambda 0.5 to 9"
    assert [path.name for path in tmp_path.iterdir()] == ["k.safetensors"]


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_value_that_is_no_factor_is_named_with_its_place(tmp_path, value):
    norm = some()
    norm.lambda_LHkvD[1, 0, 5] = value
    write_key_norm(norm, tmp_path / "k")
    with pytest.raises(ConfigError, match=r"layer 1, KV head 0, channel 5[\s\S]*positive finite[\s\S]*calibrate"):
        read_key_norm(tmp_path / "k")


@pytest.mark.parametrize(
    ("tensors", "metadata", "match"),
    [
        ({"key_norm": np.ones((1, 1, 32), np.float16)}, None, "no file of key normalisation"),
        ({"key_norm": np.ones((1, 1, 32), np.float16)}, META | {"tokens": "x"}, "no file of key normalisation"),
        ({"key_norm": np.ones((1, 1, 32), np.float16)}, META | {"format": "7"}, "no file of key normalisation"),
        ({"other": np.ones((1, 1, 32), np.float16)}, META, "no file of key normalisation"),
        ({"key_norm": np.ones(3, np.float16), "more": np.ones(3)}, META, "no file of key normalisation"),
        ({"key_norm": np.ones((1, 1, 32), np.float32)}, META, r"malformed[\s\S]*F32"),
        ({"key_norm": np.ones((1, 32), np.float16)}, META, r"malformed[\s\S]*\(1, 32\)"),
    ],
)
def test_other_files_are_refused(tmp_path, tensors, metadata, match):
    save_file(tensors, tmp_path / "k", metadata=metadata)
    with pytest.raises(ConfigError, match=match):
        read_key_norm(tmp_path / "k")


def test_a_truncated_file_and_none_at_all(tmp_path):
    write_key_norm(some(), tmp_path / "k")
    (tmp_path / "k").write_bytes((tmp_path / "k").read_bytes()[:-1])
    for name in ("k", "none"):
        with pytest.raises(CheckpointError, match=rf"{name}: "):
            read_key_norm(tmp_path / name)


def test_metadata_that_is_no_metadata(tmp_path):
    text = b'{"__metadata__": [1], "key_norm": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}'
    (tmp_path / "k").write_bytes(len(text).to_bytes(8, "little") + text + b"\0\0")
    with pytest.raises(CheckpointError, match="__metadata__ is malformed"):
        read_key_norm(tmp_path / "k")


def test_another_models_file_is_refused(tiny_checkpoint):
    with pytest.raises(ConfigError, match=r"of another model[\s\S]*\(2, 2, 64\)[\s\S]*\(2, 2, 32\)"):
        folded(tiny_checkpoint, some(shape=(2, 2, 32)))
    with pytest.raises(ConfigError, match=r"calibrated on other weights[\s\S]*abc"):
        folded(tiny_checkpoint, some())


def test_a_folded_checkpoint_is_another_one_and_says_so(tiny_checkpoint):
    norms = [dataclasses.replace(some(value), checkpoint=tiny_checkpoint.digest) for value in (2.0, 3.0)]
    both = [folded(tiny_checkpoint, norm) for norm in norms]
    assert len({tiny_checkpoint.digest, *(one.digest for one in both)}) == 3
    assert both[1].notes[-1].startswith("key normalisation folded into the weights, calibrated on 7 tokens of t.txt")
    with pytest.raises(ConfigError, match="calibrated on other weights"):
        folded(both[0], norms[0])


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_key_norm(some(), tmp_path / "no" / "k")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write_key_norm(some(), tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
