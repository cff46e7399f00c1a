import dataclasses

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from innerq_export.checkpoint import open_checkpoint
from innerq_export.errors import CheckpointError, ConfigError
from innerq_export.graph.calibrate import calibrate
from innerq_export.graph.streamed import stream_weights
from tests.graph.onnx_run import positions_of
from tests.graph.test_families import FAMILIES
from tests.models import tiny_model

TEXT = "Small errors hide behind large sums. " * 40


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def keys_of(folder, ids_BS):
    """Keys after RoPE of every layer, from transformers with all its weights in memory."""
    from transformers import AttentionInterface, AutoModelForCausalLM
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    keys = []

    def record(module, query, key, *rest, **features):
        keys.append(key)
        return sdpa_attention_forward(module, query, key, *rest, **features)

    AttentionInterface.register("innerq_test_keys", record)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="innerq_test_keys")
    with torch.no_grad():
        model(input_ids=ids_BS, position_ids=positions_of(ids_BS), use_cache=False)
    return keys


def test_lambda_is_that_of_the_models_own_keys_past_the_sinks(tied_fp16, text):
    norm = calibrate(tied_fp16, text, sink=8, max_tokens=700)
    ids = Tokenizer.from_file(str(tied_fp16.folder / "tokenizer.json")).encode(TEXT).ids
    ids_BS = torch.tensor(ids[:700]).reshape(2, 350)  # the context is 512
    assert (norm.tokens, norm.text, norm.checkpoint) == (700, "text.txt", tied_fp16.digest)
    for layer, key_BHkvSD in enumerate(keys_of(tied_fp16.folder, ids_BS)):
        peak_HkvD = key_BHkvSD[:, :, 8:].abs().amax((0, 2))
        pair = torch.maximum(peak_HkvD, peak_HkvD.roll(32, -1)).sqrt()
        np.testing.assert_allclose(norm.lambda_LHkvD[layer], pair.numpy(), rtol=1e-3)


def test_a_lambda_that_saw_the_sinks_would_be_another(tied_fp16, text):
    with_sinks, without = (calibrate(tied_fp16, text, sink=sink).lambda_LHkvD for sink in (0, 300))
    assert (with_sinks >= without).all() and (with_sinks > without).any()


def test_sharded_bf16_with_biases(untied_bf16, text):
    norm = calibrate(untied_bf16, text)
    assert norm.lambda_LHkvD.shape == (2, 1, 128)
    assert np.isfinite(norm.lambda_LHkvD).all() and (norm.lambda_LHkvD > 0).all()


@pytest.mark.parametrize("family", ["qwen3", "olmo2", "cohere", "phi3", "mixtral", "qwen3_moe"])
def test_other_families_calibrate_too(family, text, tmp_path):
    folder = tiny_model(tmp_path / family, family, num_hidden_layers=1, **FAMILIES[family])
    norm = calibrate(open_checkpoint(str(folder)), text, sink=8, max_tokens=300)
    ids_BS = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids[:300])[None]
    (key_BHkvSD,) = keys_of(folder, ids_BS)
    root_HkvD = key_BHkvSD[:, :, 8:].abs().amax((0, 2)).sqrt().numpy()
    found_HkvD = norm.lambda_LHkvD[0].astype(np.float32)
    assert (found_HkvD > root_HkvD * 0.999).all(), "a lambda below the root of its own channel's largest key"
    assert np.isclose(found_HkvD, root_HkvD, rtol=1e-3).mean() >= 0.25, "no channel decides its own lambda"


def test_weights_are_there_only_while_their_module_runs(tied_fp16):
    layer = torch.nn.Sequential(torch.nn.Linear(128, 128, bias=False), torch.nn.Linear(128, 128, bias=False))
    ref = next(ref for ref in tied_fp16.tensors.values() if ref.shape in {(128, 128), (256, 128)})
    ref = dataclasses.replace(ref, shape=(128, 128), nbytes=2 * 128 * 128)
    held = []
    placeholder = torch.nn.Parameter(torch.zeros(()).expand(128, 128), requires_grad=False)
    for module in layer:
        module.weight = placeholder
        module.register_forward_pre_hook(lambda *_: held.append([m.weight is placeholder for m in layer]))
    stream_weights(layer, {"0.weight": ref, "1.weight": ref})
    layer(torch.ones(1, 128))
    assert held == [[True, True], [True, True]]
    assert all(module.weight is placeholder for module in layer)


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        (b"short", ConfigError, r"too short[\s\S]*more than 32 tokens[\s\S]*6 tokens"),
        (b"", ConfigError, "too short"),
        (b"\xff\xfe\x00", ConfigError, "cannot be read as text"),
        (None, ConfigError, "cannot be read as text"),
    ],
)
def test_a_text_that_serves_nobody(tied_fp16, tmp_path, content, error, match):
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(error, match=match):
        calibrate(tied_fp16, text)


def test_a_model_without_tokenizer(tied_fp16, text, tmp_path):
    with pytest.raises(CheckpointError, match=r"no tokenizer.json[\s\S]*fix: "):
        calibrate(dataclasses.replace(tied_fp16, folder=tmp_path), text)


def test_keys_that_are_not_finite(tied_fp16, text, monkeypatch):
    monkeypatch.setattr("innerq_export.graph.streamed._read", lambda ref, rounded: torch.full(ref.shape, torch.inf))
    with pytest.raises(CheckpointError, match="keys are not finite"):
        calibrate(tied_fp16, text)


def test_a_file_that_shrank(tied_fp16, text):
    tensors = {name: dataclasses.replace(ref, offset=1 << 40) for name, ref in tied_fp16.tensors.items()}
    with pytest.raises(CheckpointError, match="truncated inside tensor"):
        calibrate(dataclasses.replace(tied_fp16, tensors=tensors), text)
