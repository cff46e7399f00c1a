import pytest

from innerq_export.checkpoint.support import ARCHITECTURES, check_support
from innerq_export.checkpoint.window import within_window
from innerq_export.errors import CheckpointError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_size": 256,
    "vocab_size": 264,
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_supported(architecture):
    check_support(LLAMA | {"architectures": [architecture]})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"architectures": ["LlamaForCausallM"]}, "did you mean 'LlamaForCausalLM'"),
        ({"architectures": ["BertModel"]}, "architecture BertModel is not supported"),
        ({"architectures": None}, r"architecture \(none named\)"),
        ({"architectures": 7}, "architecture 7"),
        ({"sliding_window": 256}, "sliding-window attention"),
        ({"sliding_window": 256, "layer_types": ["sliding_attention", "full_attention"]}, "sliding-window attention"),
        (
            {"sliding_window": 256, "use_sliding_window": False, "layer_types": ["sliding_attention"]},
            "sliding-window attention",
        ),
        ({"sliding_window": 2048, "rope_scaling": {"type": "yarn"}}, "together with yarn"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "layers that are not full attention"),
        ({"attn_logit_softcapping": 50.0}, "soft-capped attention scores"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotary frequencies that change"),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, "rotary frequencies that change"),
        ({"rope_scaling": "linear"}, "rotary frequencies that change"),
        ({"head_dim": 80}, "head dim that is no multiple of 32"),
        ({"architectures": ["Qwen2MoeForCausalLM"], "num_experts": 8}, "a mixture of experts"),
        ({"num_local_experts": 8}, "a mixture of experts"),
        ({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 513}, "more than 1,024 experts in all"),
        ({"quantization_config": {"quant_method": "awq"}}, "already quantised weights"),
    ],
)
def test_what_cannot_be_exported_is_refused_by_name(fields, named):
    with pytest.raises(CheckpointError, match=named):
        check_support(LLAMA | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"sliding_window": None},
        {"rope_scaling": None},
        {"rope_scaling": {"rope_type": "llama3"}},
        {"rope_parameters": {"rope_theta": 1e4}},
        {"sliding_window": 4096},
        {"sliding_window": 256, "use_sliding_window": False},
        {"sliding_window": 512},
        {"layer_types": ["full_attention"] * 2},
        {"attn_logit_softcapping": None},
        {"quantization_config": None},
        {"architectures": ["MixtralForCausalLM"], "num_local_experts": 512},
    ],
)
def test_features_that_are_off_do_not_count(fields):
    check_support(LLAMA | fields)


def test_a_long_sliding_window_becomes_the_context_and_is_told():
    config, notes = within_window(LLAMA | {"sliding_window": 2048})
    assert config["max_position_embeddings"] == 2048
    assert notes == ("sliding-window model: context limited to its window of 2,048 tokens (of 4,096)",)


@pytest.mark.parametrize("window", [None, 4096, 8192])
def test_without_an_active_window_the_context_stays(window):
    assert within_window(LLAMA | {"sliding_window": window}) == (LLAMA | {"sliding_window": window}, ())
