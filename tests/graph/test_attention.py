from types import SimpleNamespace

import pytest
import torch

from innerq_export.errors import CheckpointError
from innerq_export.graph.attention import traced_attention


def layer(**fields):
    config = SimpleNamespace(max_position_embeddings=2048)
    return SimpleNamespace(**{"layer_idx": 3, "is_causal": True, "config": config} | fields)


def attend(module, mask=None, **features):
    query_BHqSD, key_BHkvSD = torch.randn(2, 4, 5, 64), torch.randn(2, 2, 5, 64)
    return traced_attention(module, query_BHqSD, key_BHkvSD, key_BHkvSD, mask, scaling=0.125, **features)


def test_output_is_batch_tokens_heads_channels():
    output, weights = attend(layer(), sliding_window=2048)
    assert output.shape == (2, 5, 4, 64) and weights is None


@pytest.mark.parametrize(
    ("module", "features"),
    [
        (layer(), {"softcap": 50.0}),
        (layer(), {"sliding_window": 2047}),
        (layer(), {"s_aux": torch.zeros(4)}),
        (layer(), {"mask": torch.zeros(2, 1, 5, 5)}),
        (layer(is_causal=False), {}),
    ],
)
def test_what_the_operator_does_not_compute_is_refused_with_the_layer(module, features):
    with pytest.raises(CheckpointError, match="of layer 3"):
        attend(module, **features)
