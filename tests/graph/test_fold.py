"""Folding in every family: factors found, the model's logits unchanged, faults visible, what cannot be is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from innerq_export.artifacts import KeyNorm
from innerq_export.checkpoint import open_checkpoint
from innerq_export.checkpoint.key_norm import folded
from innerq_export.errors import CheckpointError, ConfigError
from innerq_export.graph import bind, export_graph
from innerq_export.graph.fold import fold_factors, lambda_of
from innerq_export.graph.rotation import mixed_channels
from innerq_export.graph.scale import ScaledTensor
from innerq_export.graph.skeleton import build_skeleton
from tests.graph.onnx_run import positions_of, relative_error, run_onnx, run_torch, some_ids
from tests.graph.test_families import FAMILIES
from tests.models import tiny_model

FAMILY_SIZES = {"llama": {"attention_bias": True}} | FAMILIES | {"olmo": {}}
GEMMA3 = FAMILY_SIZES.pop("gemma3_text")


def skeleton_of(checkpoint):
    return build_skeleton(checkpoint.config, torch.float32)


def some_norm(checkpoint, seed: int = 0) -> KeyNorm:
    """A key norm with wide differences between channels, made to be foldable as calibration makes it."""
    shape = checkpoint.shape
    generator = torch.Generator().manual_seed(seed)
    peak = 2.0 ** torch.empty(shape.layers, shape.kv_heads, shape.head_dim).uniform_(-6, 6, generator=generator)
    found = lambda_of(skeleton_of(checkpoint), shape, peak)
    return KeyNorm(found, checkpoint.digest, "no text", 1)


@pytest.mark.parametrize("family", FAMILY_SIZES)
def test_the_factors_leave_a_families_own_model_what_it_is(family, tmp_path):
    folder = tiny_model(tmp_path / family, family, dtype="float32", num_hidden_layers=1, **FAMILY_SIZES[family])
    checkpoint = open_checkpoint(str(folder))
    norm = some_norm(checkpoint)
    assert norm.lambda_LHkvD.max() > 4 * norm.lambda_LHkvD.min()
    ids_BS = some_ids(2, 20)
    expected = run_torch(folder, "float32", ids_BS)
    factors = fold_factors(skeleton_of(checkpoint), checkpoint.shape, norm.lambda_LHkvD)
    assert relative_error(logits_of_scaled(folder, factors, ids_BS), expected) < 2e-5
    half = {name: factor_R for name, factor_R in factors.items() if ".k_" not in name}
    if "phi3" not in family:
        assert relative_error(logits_of_scaled(folder, half, ids_BS), expected) > 1e-2


def logits_of_scaled(folder, factors, ids_BS):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, factor_R in factors.items():
            model.get_parameter(name).view(len(factor_R), -1).mul_(torch.from_numpy(factor_R).float()[:, None])
        return model(input_ids=ids_BS, position_ids=positions_of(ids_BS), use_cache=False).logits


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
def test_a_folded_export_says_what_the_model_says(family, tmp_path):
    folder = tiny_model(tmp_path / family, family, dtype="float32", num_hidden_layers=1, **FAMILY_SIZES[family])
    checkpoint = open_checkpoint(str(folder))
    ids_BS = some_ids(2, 20)
    graph = export_graph(folded(checkpoint, some_norm(checkpoint)), "float32")
    assert relative_error(run_onnx(graph, tmp_path, ids_BS), run_torch(folder, "float32", ids_BS)) < 2e-5


FAULTS = {
    "keys are not divided": lambda name, factor_R: np.ones_like(factor_R) if "k_proj" in name else factor_R,
    "queries of a group have their neighbour's lambda": lambda name, factor_R: (
        np.roll(factor_R, 64) if "q_proj" in name else factor_R
    ),
    "biases are forgotten": lambda name, factor_R: np.ones_like(factor_R) if name.endswith("bias") else factor_R,
    "channels are one off": lambda name, factor_R: np.roll(factor_R, 1) if "k_proj" in name else factor_R,
}


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    folder = tiny_model(
        tmp_path_factory.mktemp("biased"), "llama", dtype="float32", num_hidden_layers=1, attention_bias=True
    )
    return open_checkpoint(str(folder))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_folding_is_seen(fault, biased, tmp_path, monkeypatch):
    right = bind.ScaledTensor
    monkeypatch.setattr(bind, "ScaledTensor", lambda ref, dtype, by: right(ref, dtype, FAULTS[fault](ref.name, by)))
    ids_BS = some_ids(2, 20)
    got = run_onnx(export_graph(folded(biased, some_norm(biased)), "float32"), tmp_path, ids_BS)
    assert relative_error(got, run_torch(biased.folder, "float32", ids_BS)) > 1e-2


def test_only_queries_and_keys_are_rewritten(tied_fp16, graph_fp16):
    graph = export_graph(folded(tied_fp16, some_norm(tied_fp16)))
    changed = {
        name for name, value in graph.model.graph.initializers.items() if isinstance(value.const_value, ScaledTensor)
    }
    assert changed == {name for name in tied_fp16.tensors if "q_proj" in name or "k_proj" in name}
    assert graph.digest != graph_fp16.digest


@pytest.mark.parametrize(("family", "partner"), [("llama", 32), ("glm", 1), ("phi3", 32)])
def test_rotated_pairs_are_found(family, partner, tmp_path):
    checkpoint = open_checkpoint(str(tiny_model(tmp_path, family, num_hidden_layers=1, **FAMILY_SIZES[family])))
    mixed_DD = mixed_channels(skeleton_of(checkpoint), 64)
    assert mixed_DD[0].nonzero().flatten().tolist() == [0, partner]
    assert torch.equal(mixed_DD, mixed_DD.T)
    rotated = 32 if family == "glm" else 64  # glm rotates half of its channels
    assert (mixed_DD.sum(1) == 2).sum() == rotated


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_factors_undo_one_another_in_every_pair_of_heads(seed, tied_fp16):
    norm, shape = some_norm(tied_fp16, seed), tied_fp16.shape
    factors = fold_factors(skeleton_of(tied_fp16), shape, norm.lambda_LHkvD)
    for layer in range(shape.layers):
        query_HqD, key_HkvD = (
            factors[f"model.layers.{layer}.self_attn.{part}_proj.weight"].reshape(-1, shape.head_dim) for part in "qk"
        )
        for head, query_D in enumerate(query_HqD):
            np.testing.assert_allclose(query_D * key_HkvD[head // (shape.heads // shape.kv_heads)], 1, rtol=1e-15)


def test_lambda_is_the_root_of_the_peak_of_the_pair_and_one_for_nothing(tied_fp16):
    shape = tied_fp16.shape
    peak = torch.zeros(shape.layers, shape.kv_heads, shape.head_dim)
    peak[1, 0, 3], peak[1, 0, 35], peak[1, 0, 36] = 9.0, 4.0, 2.0
    found = lambda_of(skeleton_of(tied_fp16), shape, peak)
    assert found.dtype == np.float16
    assert found[1, 0, [3, 35, 4, 36]].tolist() == [3.0, 3.0, *[float(np.float16(2**0.5))] * 2]
    assert (found[0] == 1).all() and (found[1, 1] == 1).all()


def test_heads_behind_one_norm_weight_share_lambda(tmp_path):
    checkpoint = open_checkpoint(str(tiny_model(tmp_path, "qwen3", num_hidden_layers=1)))
    peak = torch.zeros(1, 2, 64)
    peak[0, 0, 5], peak[0, 1, 5] = 4.0, 16.0
    assert lambda_of(skeleton_of(checkpoint), checkpoint.shape, peak)[0, :, 5].tolist() == [4.0, 4.0]
    apart = some_norm(checkpoint)
    apart.lambda_LHkvD[0, 1] = 2
    with pytest.raises(ConfigError, match=r"layer 0 cannot be folded[\s\S]*one value for all KV heads"):
        export_graph(folded(checkpoint, apart))


def test_a_pair_with_two_values_is_refused(tied_fp16):
    apart = some_norm(tied_fp16)
    apart.lambda_LHkvD[1, 0, 35] *= 2
    with pytest.raises(ConfigError, match=r"layer 1 cannot be folded[\s\S]*channels \[3, 35\] differ[\s\S]*calibrate"):
        export_graph(folded(tied_fp16, apart))


def test_the_norm_of_other_weights_is_refused(tied_fp16):
    other = dataclasses.replace(some_norm(tied_fp16), checkpoint="0" * 64)
    with pytest.raises(ConfigError, match="calibrated on other weights"):
        export_graph(folded(tied_fp16, other))


def test_clipped_queries_are_refused_by_name(tmp_path):
    checkpoint = open_checkpoint(str(tiny_model(tmp_path, "olmo", num_hidden_layers=1, clip_qkv=8.0)))
    with pytest.raises(CheckpointError, match=r"clip_qkv[\s\S]*fix: .*--key-norm prefill"):
        some_norm(checkpoint)


def test_norms_that_are_no_plain_product_are_refused_by_name(tmp_path):
    checkpoint = open_checkpoint(str(tiny_model(tmp_path, "gemma3_text", num_hidden_layers=1, **GEMMA3)))
    with pytest.raises(CheckpointError, match=r"adds to the weights of its key norms[\s\S]*layers.0.self_attn.k_norm"):
        some_norm(checkpoint)


def test_a_family_that_rotates_elsewhere_is_refused_by_name(tied_fp16, monkeypatch):
    monkeypatch.setattr("transformers.models.llama.modeling_llama.apply_rotary_pos_emb", None)
    with pytest.raises(CheckpointError, match="cannot be folded into LlamaForCausalLM"):
        some_norm(tied_fp16)
