"""The model of backend torch: every family's weights, whole or in parts, and what the compiler is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from innerq_export.artifacts import KeyNorm
from innerq_export.checkpoint import open_checkpoint
from innerq_export.checkpoint.key_norm import folded
from innerq_export.errors import CheckpointError, ConfigError
from innerq_export.runtime import torch_model
from innerq_export.runtime.torch_decoder import Decoder
from innerq_export.runtime.torch_model import Ranks, Shared, empty_model, load_model
from innerq_export.runtime.torch_weights import COLUMN, ROW, styles_of
from innerq_export.spec import preset
from tests.models import tiny_model

torch.set_num_threads(1)
CPU = torch.device("cpu")
FAMILIES = ("llama", "qwen2", "qwen3", "phi3", "gemma", "cohere", "olmo2", "starcoder2", "glm4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = {}

    def get(family):
        if family not in made:
            folder = tiny_model(tmp_path_factory.mktemp("model") / family, family, shard_size="100KB")
            made[family] = open_checkpoint(str(folder))
        return made[family]

    return get


def logits_of(model, shape, ids, compiled=False):
    """Logits after each of the last two tokens of a short prompt: all of it in the window, in full precision."""
    decoder = Decoder(model, preset("balanced"), shape, torch.float32, CPU, compiled=compiled)
    decoder.allocate(1, 4)
    first, one = np.array([ids[:-1]]), np.array([1], np.int32)
    past = np.array([len(ids) - 1], np.int32)
    before = decoder.step(first, np.zeros(1, np.int32), past)
    return torch.cat([before, decoder.step(np.array([ids[-1:]]), past, one)])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_what_transformers_does(checkpoint, family):
    from transformers import AutoModelForCausalLM

    source, ids = checkpoint(family), list(range(40, 70))
    model, shape = load_model(source, torch.float32, CPU)
    plain = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    with torch.no_grad():
        expected = plain(torch.tensor([ids])).logits[0, -2:]
    torch.testing.assert_close(logits_of(model, shape, ids), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2", "glm4"])
def test_the_parts_of_two_ranks_are_the_whole(checkpoint, family, monkeypatch):
    monkeypatch.setattr(torch_model, "_sum_over", lambda module, group: None)
    source = checkpoint(family)
    styles = styles_of(empty_model(source.config, torch.float32, torch.device("meta")))
    whole, _ = load_model(source, torch.float32, CPU)
    parts = [load_model(source, torch.float32, CPU, Ranks(rank, 2))[0].state_dict() for rank in (0, 1)]
    assert {styles[name] for name in styles} == {COLUMN, ROW}
    for name, expected in whole.state_dict().items():
        style, one, other = styles.get(name.rpartition(".")[0]), *(part[name] for part in parts)
        if style == ROW:
            joined = one + other if one.dim() == 1 else torch.cat([one, other], 1)
        else:
            joined = torch.cat([one, other]) if style == COLUMN else one
        assert torch.equal(joined, expected), name


def test_styles_are_those_of_the_layers_and_unknown_ones_are_refused(checkpoint):
    model = empty_model(checkpoint("llama").config, torch.float32, torch.device("meta"))
    plan = dict(model.config.base_model_tp_plan)
    expected = styles_of(model)
    model.config.base_model_tp_plan = plan | {"embed_tokens": "embedding_rowwise"}
    assert styles_of(model) == expected
    model.config.base_model_tp_plan = plan | {"layers.*.mlp.up_proj": "sideways"}
    with pytest.raises(ConfigError, match="cannot be split"):
        styles_of(model)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_folded_key_norm_changes_rows_of_weights_and_no_logits(checkpoint, family, monkeypatch):
    monkeypatch.setattr(torch_model, "_sum_over", lambda module, group: None)
    source, ids = checkpoint(family), list(range(40, 70))
    half = np.random.default_rng(0).uniform(0.5, 2, (2, 2, 32)).astype(np.float16)
    norm = KeyNorm(np.concatenate([half, half], axis=-1), source.digest, "text", 1)
    normed = folded(source, norm)
    (plain, shape), (scaled, _) = (load_model(each, torch.float32, CPU) for each in (source, normed))
    rows = lambda model, rows: model.model.layers[1].self_attn.k_proj.weight[rows]  # noqa: E731
    lambda_R = torch.from_numpy(norm.lambda_LHkvD[1].reshape(-1).astype(np.float32))[:, None]
    torch.testing.assert_close(rows(scaled, slice(None)) * lambda_R, rows(plain, slice(None)))
    torch.testing.assert_close(logits_of(scaled, shape, ids), logits_of(plain, shape, ids), rtol=1e-3, atol=1e-3)
    second, _ = load_model(normed, torch.float32, CPU, Ranks(1, 2))
    assert torch.equal(rows(second, slice(None)), rows(scaled, slice(64, None)))


@pytest.mark.parametrize("family", ["phi3", "olmo2"])
def test_a_family_whose_plan_does_not_split_kv_heads_is_refused(checkpoint, family):
    with pytest.raises(ConfigError, match="cannot be split by KV heads"):
        load_model(checkpoint(family), torch.float32, CPU, Ranks(0, 2))


def test_all_layers_are_compiled_once_and_products_are_shared(checkpoint, monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch_model, "COMPILER", counter)
    source, ids = checkpoint("llama"), list(range(40, 70))
    model, shape = load_model(source, torch.float32, CPU)
    plain = logits_of(model, shape, ids)
    before = sum(isinstance(module, torch.nn.Linear) for module in model.modules())
    both = logits_of(model, shape, ids, compiled=True)
    torch.testing.assert_close(both, plain, rtol=1e-4, atol=1e-4)
    assert sum(isinstance(module, Shared) for module in model.modules()) == 5 * shape.layers
    assert sum(isinstance(module, torch.nn.Linear) for module in model.modules()) == before - 5 * shape.layers
    layers = [graph for graph in counter.graphs if "session_attend" in str(graph.graph)]
    assert len(layers) == 1
    products = [node for node in layers[0].graph.nodes if node.target is torch.nn.functional.linear]
    assert len(products) == 4, "queries, keys and values; output; gate and up; down"


def test_a_missing_tensor_and_another_shape_are_named(checkpoint):
    import dataclasses

    source = checkpoint("llama")
    few = {name: ref for name, ref in source.tensors.items() if "up_proj" not in name}
    with pytest.raises(CheckpointError, match=r"up_proj\.weight' is missing"):
        load_model(dataclasses.replace(source, tensors=few), torch.float32, CPU)
    wide = dataclasses.replace(source, config=dict(source.config) | {"intermediate_size": 64})
    with pytest.raises(CheckpointError, match="has another shape"):
        load_model(wide, torch.float32, CPU)
    with pytest.raises(CheckpointError, match="cannot build this model"):
        load_model(dataclasses.replace(source, config=dict(source.config) | {"model_type": "no"}), torch.float32, CPU)
