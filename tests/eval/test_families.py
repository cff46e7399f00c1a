"""Any family that this build exports can be measured: its full-precision figures are those of transformers."""

from __future__ import annotations

import pytest
import torch

from innerq_export.eval.model import Decoder
from innerq_export.eval.plans import Sizes, full_precision, plans_of
from innerq_export.parity.torch_model import TorchModel
from tests.models import tiny_model


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma", "phi3", "cohere", "mistral"])
def test_full_precision_is_transformers_and_a_preset_is_not(family, tmp_path):
    folder = tiny_model(tmp_path, family, num_hidden_layers=1)
    ids = torch.randint(256, (1, 200), generator=torch.Generator().manual_seed(0))
    decoder = Decoder(folder, "cpu")
    sizes = Sizes(decoder.layers, decoder.head_dim)
    prompt = decoder.read(ids[:, :100])
    full = decoder.decode(prompt, ids[:, 100:], full_precision(sizes).schemes).logits_BNV[0]
    plain = TorchModel(folder, "float16").unquantised(ids[0])[100:]
    scale = plain.abs().max()
    assert (full - plain).abs().max() < 5e-3 * scale
    quantised = decoder.decode(prompt, ids[:, 100:], plans_of(["presets"], sizes)[1].schemes).logits_BNV[0]
    assert (quantised[:59] - full[:59]).abs().max() < 1e-4 * scale  # the first block leaves the window at token 159
    assert (quantised - full).abs().max() > 5e-3 * scale
