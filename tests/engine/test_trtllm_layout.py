"""TensorRT-LLM 1.2's config.json and rank0.engine, beside what transformers reads from the same file."""

import json
import os

import onnx
import pytest

from innerq_export.engine import default_profiles
from innerq_export.engine.trtllm_layout import write_layout
from tests.engine.toy import CACHE, SHAPE, toy_onnx

PROFILES = default_profiles(SHAPE, CACHE, 3, 256)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"plan")
    return tmp_path


def config_after(folder, **hugging_face):
    model = toy_onnx(folder / "model.plugin.onnx")
    if hugging_face:
        (folder / "config.json").write_text(json.dumps(hugging_face))
    write_layout(folder, model, PROFILES)
    return json.loads((folder / "config.json").read_text())


def test_both_readers_find_their_fields(folder, tiny_checkpoint):
    from transformers import AutoConfig

    original = json.loads((tiny_checkpoint.folder / "config.json").read_text())
    config = config_after(folder, **original)
    assert {name: config[name] for name in original} == original
    assert AutoConfig.from_pretrained(folder).num_key_value_heads == original["num_key_value_heads"]
    stated = config["pretrained_config"]
    assert stated["architecture"] == "LlamaForCausalLM"
    assert (stated["norm_epsilon"], stated["rotary_base"]) == (
        original["rms_norm_eps"],
        original["rope_parameters"]["rope_theta"],
    )
    assert (stated["num_hidden_layers"], stated["head_size"], stated["vocab_size"]) == (1, 32, SHAPE.vocab)
    assert stated["mapping"]["tp_size"] == 1
    assert stated["innerq"] == CACHE.to_dict()


def test_limits_are_those_of_the_profiles(folder):
    config = config_after(folder)
    limits = config["build_config"]
    assert config["version"] == "1.2.1"
    assert (limits["max_batch_size"], limits["max_seq_len"], limits["max_input_len"]) == (3, 256, 256)
    assert limits["max_num_tokens"] == 768
    assert limits["gather_context_logits"] is False
    assert None not in config["pretrained_config"].values()


def test_logits_of_all_tokens_are_stated(folder):
    model = toy_onnx(folder / "model.plugin.onnx")
    changed = onnx.load(model.path)
    shape = changed.graph.output[0].type.tensor_type.shape
    shape.dim.insert(1, onnx.TensorShapeProto.Dimension(dim_param="S"))
    onnx.save(changed, model.path)
    write_layout(folder, model, PROFILES)
    assert json.loads((folder / "config.json").read_text())["build_config"]["gather_context_logits"] is True


def test_rank_0_is_the_plan_itself_or_a_copy_of_it(folder, monkeypatch):
    config_after(folder)
    assert (folder / "rank0.engine").samefile(folder / "model.engine")
    (folder / "rank0.engine").unlink()

    def refuse(*names):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    config_after(folder)
    assert (folder / "rank0.engine").read_bytes() == b"plan"
    assert not (folder / "rank0.engine").samefile(folder / "model.engine")
