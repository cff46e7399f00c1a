"""PyTorch's side: its unquantised logits are the model's own, and given attention is asked layer by layer."""

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM

from innerq_export.parity.text import token_streams
from innerq_export.parity.torch_model import TorchModel


def test_unquantised_logits_are_those_of_the_model_as_published(torch_model: TorchModel, tiny_checkpoint) -> None:
    ids_T = torch.arange(40)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint.folder, dtype=torch.float32)
    with torch.no_grad():
        expected = model(input_ids=ids_T[None]).logits[0]
    assert torch.allclose(torch_model.unquantised(ids_T), expected, atol=1e-4)


def test_attention_is_asked_for_every_layer_with_keys_after_rope(torch_model: TorchModel) -> None:
    ids_BS, position_BS = torch.arange(6).reshape(2, 3), torch.arange(6).reshape(2, 3)
    asked, keys = [], {}

    def attention(layer, query, key, value, scale):
        asked.append((layer, tuple(query.shape), tuple(key.shape), scale))
        keys[layer] = key
        return torch.zeros_like(query)

    logits = torch_model.with_attention(ids_BS, position_BS, attention)
    assert asked == [(layer, (2, 4, 3, 64), (2, 2, 3, 64), 64**-0.5) for layer in (0, 1)]
    assert logits.shape == (2, 3, 264)
    turned = {layer: key for layer, key in keys.items()}
    torch_model.with_attention(ids_BS, position_BS + 1, attention)
    assert not torch.allclose(keys[0], turned[0])


def test_streams_are_text_where_a_tokenizer_fits(tiny_checkpoint, tmp_path) -> None:
    streams = token_streams(tiny_checkpoint.folder, 264, 2, 3000)
    assert streams.shape == (2, 3000)
    assert bytes(streams[0, 1:12].tolist()) == b"The harbour"
    assert not torch.equal(streams[0], streams[1])
    without = token_streams(tmp_path, 50, 2, 100)
    assert without.shape == (2, 100) and 40 < without.max() < 50
    assert torch.equal(without, token_streams(tmp_path, 50, 2, 100))
    assert token_streams(tiny_checkpoint.folder, 60, 1, 10).max() < 60
