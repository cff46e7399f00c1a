"""One-layer random checkpoints of every supported family, exported without weights, against torch."""

import json

import onnx
import pytest

from innerq_export.checkpoint import open_checkpoint
from innerq_export.checkpoint.support import ARCHITECTURES
from innerq_export.graph import export_graph
from tests.graph.onnx_run import relative_error, run_onnx, run_torch, some_ids
from tests.models import tiny_model

FAMILIES = {
    "mistral": {"sliding_window": 1024, "max_position_embeddings": 2048},
    "qwen2": {},
    "qwen3": {},
    "smollm3": {},
    "phi3": {"pad_token_id": 0, "tie_word_embeddings": False},
    "gemma": {"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1},
    "gemma3_text": {"sliding_window": 512, "layer_types": ["sliding_attention"]},
    "granite": {"attention_multiplier": 0.02, "residual_multiplier": 0.3, "logits_scaling": 3.0},
    "olmo": {"clip_qkv": 8.0},
    "olmo2": {"tie_word_embeddings": False},
    "cohere": {"use_qk_norm": True},
    "starcoder2": {"sliding_window": None},
    "glm": {},
    "glm4": {},
    "seed_oss": {"attention_bias": True},
    "arcee": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True},
}
RARE = {"olmo", "cohere", "starcoder2", "glm", "seed_oss", "arcee"}


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[pytest.mark.slow] if name in RARE else []) for name in FAMILIES]
)
def test_a_family_exports_as_torch_computes_it(family, tmp_path):
    folder = tiny_model(tmp_path / family, family, num_hidden_layers=1, **FAMILIES[family])
    checkpoint = open_checkpoint(str(folder))
    graph = export_graph(checkpoint, "float16")
    ids_BS = some_ids(2, 20)
    expected = run_torch(folder, "float32", ids_BS)
    assert expected.std() > 0.1
    assert relative_error(run_onnx(graph, tmp_path, ids_BS), expected) < 1e-2
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)
    assert sum(node.op_type == "Attention" for node in graph.model.graph) == 1
    weights = set(checkpoint.tensors) & set(graph.model.graph.initializers)
    assert weights == set(checkpoint.tensors), "a weight of the checkpoint has no place in the graph"


def test_every_supported_architecture_is_tested_here_or_in_test_export(tmp_path):
    import transformers

    tested = {"LlamaForCausalLM"}
    for family in FAMILIES:
        config = transformers.AutoConfig.for_model(family)
        tested.add(transformers.AutoModelForCausalLM._model_mapping[type(config)].__name__)
    assert tested == set(ARCHITECTURES)


@pytest.mark.parametrize(
    "rope", [{"rope_type": "yarn", "factor": 4.0}, {"rope_type": "linear", "factor": 2.0}], ids=str
)
def test_rope_scaling_is_that_of_transformers(rope, tmp_path):
    rope = rope | {"rope_theta": 1e4, "original_max_position_embeddings": 128}
    folder = tiny_model(tmp_path / "m", "qwen3", dtype="float32", num_hidden_layers=1, rope_parameters=rope)
    assert json.loads((folder / "config.json").read_text())["rope_parameters"]["rope_type"] == rope["rope_type"]
    ids_BS = some_ids(1, 200)
    got = run_onnx(export_graph(open_checkpoint(str(folder)), "float32"), tmp_path, ids_BS)
    assert relative_error(got, run_torch(folder, "float32", ids_BS)) < 2e-5
