import json
import os
import shutil

import pytest

from innerq_export.checkpoint import open_checkpoint
from innerq_export.errors import CheckpointError
from tests.checkpoint.safetensors_file import write, write_raw
from tests.models import tiny_llama

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture(scope="session")
def sharded_source(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("sharded") / "model", shard_size="100KB")


@pytest.fixture
def sharded(sharded_source, tmp_path):
    return shutil.copytree(sharded_source, tmp_path / "model")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def edit_json(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_folder_of_save_pretrained_opens(whole):
    checkpoint = open_checkpoint(str(whole))
    assert (checkpoint.shape.layers, checkpoint.shape.heads, checkpoint.shape.kv_heads) == (2, 4, 2)
    assert checkpoint.tensors["model.layers.1.self_attn.k_proj.weight"].shape == (128, 128)
    assert "lm_head.weight" not in checkpoint.tensors
    assert {file.name for file in checkpoint.tokenizer_files} >= {"tokenizer.json", "tokenizer_config.json"}


def test_sharding_changes_neither_tensors_nor_digest(whole, sharded):
    one, many = open_checkpoint(str(whole)), open_checkpoint(str(sharded))
    assert len({ref.file for ref in many.tensors.values()}) > 1
    assert one.tensors.keys() == many.tensors.keys()
    assert one.digest == many.digest


def test_digest_sees_one_changed_weight_and_one_changed_setting(folder):
    before = open_checkpoint(str(folder)).digest
    ref = open_checkpoint(str(folder)).tensors["model.norm.weight"]
    with ref.file.open("r+b") as stream:
        stream.seek(ref.offset)
        stream.write(b"\x01")
    weights_changed = open_checkpoint(str(folder)).digest
    edit_json(folder / "config.json", rms_norm_eps=1e-3)
    assert len({before, weights_changed, open_checkpoint(str(folder)).digest}) == 3


def test_pickled_weights_are_refused_and_not_opened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").symlink_to("/nonexistent")
    with pytest.raises(CheckpointError, match=r"pickled weights are refused[\s\S]*pytorch_model.bin[\s\S]*fix:"):
        open_checkpoint(str(folder))


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "a\\b.safetensors", 7])
def test_an_index_that_leaves_the_folder_is_refused(sharded, shard):
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    edit_json(sharded / INDEX, weight_map=weight_map | {"model.norm.weight": shard})
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' points outside the folder"):
        open_checkpoint(str(sharded))


def test_an_index_that_names_a_pickle_is_refused(sharded):
    edit_json(sharded / INDEX, weight_map={"model.norm.weight": "pytorch_model.bin"})
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        open_checkpoint(str(sharded))


def test_a_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        open_checkpoint(str(sharded))


def test_a_tensor_in_another_shard_than_the_index_says(sharded):
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    other = next(name for name in weight_map.values() if name != weight_map["model.norm.weight"])
    edit_json(sharded / INDEX, weight_map=weight_map | {"model.norm.weight": other})
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' is not where the index says"):
        open_checkpoint(str(sharded))


def test_a_tensor_in_two_shards(sharded):
    weight_map = json.loads((sharded / INDEX).read_text())["weight_map"]
    shutil.copy(sharded / weight_map["model.norm.weight"], sharded / "copy.safetensors")
    edit_json(sharded / INDEX, weight_map=weight_map | {"x": "copy.safetensors"})
    with pytest.raises(CheckpointError, match="is in two files"):
        open_checkpoint(str(sharded))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"a": 1, "a": 2}'], ids=repr)
def test_a_broken_config_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config.json: not a JSON object"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", None),
        ("hidden_size", -1),
        ("vocab_size", "264"),
        ("num_attention_heads", True),
        ("num_key_value_heads", 3),
        ("head_dim", 0),
        ("max_position_embeddings", 1.5),
    ],
)
def test_an_absurd_size_is_refused_by_name(folder, field, value):
    edit_json(folder / "config.json", **{field: value})
    with pytest.raises(CheckpointError, match=rf"config.json: field '{field}'"):
        open_checkpoint(str(folder))


def test_a_config_that_never_ends_is_refused(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"config.json"):
        open_checkpoint(str(folder))


def test_a_folder_without_rights(folder):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (folder / "model.safetensors").chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(str(folder))


def test_nothing_of_the_checkpoint_is_executed(folder):
    (folder / "modeling_evil.py").write_text("raise SystemExit('executed')")
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    assert open_checkpoint(str(folder)).shape.layers == 2


def test_the_shards_are_read_strictly_too(sharded):
    write(sorted(sharded.glob("*.safetensors"))[0], data=b"")
    with pytest.raises(CheckpointError, match="truncated"):
        open_checkpoint(str(sharded))
    write_raw(sharded / INDEX, b"{}")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        open_checkpoint(str(sharded))
