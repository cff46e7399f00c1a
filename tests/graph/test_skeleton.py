import torch

from innerq_export.graph.skeleton import build_skeleton, parameter_aliases
from tests.models import TINY

LLAMA = TINY | {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def frequencies(config):
    return build_skeleton(config, torch.float16).model.rotary_emb.inv_freq


def test_parameters_take_no_memory():
    huge = build_skeleton(LLAMA | {"hidden_size": 1 << 16, "intermediate_size": 1 << 18}, torch.float16)
    assert sum(parameter.numel() for parameter in huge.parameters()) > 10**11
    assert all(parameter.untyped_storage().nbytes() <= 4 for parameter in huge.parameters())


def test_frequencies_are_real_and_stay_float32():
    frequencies_D2 = frequencies(LLAMA)
    expected = 10000.0 ** -(torch.arange(0, 64, 2) / 64)
    assert frequencies_D2.dtype == torch.float32
    torch.testing.assert_close(frequencies_D2, expected)


def test_config_files_of_transformers_4_and_5_mean_the_same():
    new = LLAMA | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5} | SCALING}
    old = LLAMA | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3"} | SCALING, "torch_dtype": "bfloat16"}
    assert torch.equal(frequencies(new), frequencies(old))
    assert not torch.equal(frequencies(new), frequencies(LLAMA))


def test_aliases_follow_the_tie():
    tied = parameter_aliases(build_skeleton(LLAMA, torch.float16))
    assert set(tied["lm_head.weight"]) == {"lm_head.weight", "model.embed_tokens.weight"}
    untied = parameter_aliases(build_skeleton(LLAMA | {"tie_word_embeddings": False}, torch.float16))
    assert untied["lm_head.weight"] == ("lm_head.weight",)
