"""Every way of writing attention becomes the same network: logits equal those of the decoder as it was given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from innerq_export.errors import RewriteError
from innerq_export.rewrite import rewrite
from innerq_export.spec import CacheConfig
from tests.rewrite.network_run import Network, run_given
from tests.rewrite.tiny_decoder import SHAPE, VOCAB, Form, tiny_decoder

FORMS = [
    Form(mask="attribute"),
    Form(mask="added", expand=2),
    Form(attention="flat"),
    Form(attention="flat", mask="attribute", positions="counted"),
    Form(attention="product", mask="added", expand=2, past="joined"),
    Form(attention="chosen", expand=2, positions="counted"),
    Form(past="joined"),
    Form(past="joined", expand=2, mask="added"),
    Form(past="given", mask="added"),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_is_rewritten_to_the_same_function(form: Form) -> None:
    graph = tiny_decoder(form)
    model, report = rewrite(graph, CacheConfig(), logits="all")
    ids = np.random.default_rng(1).integers(0, VOCAB, (2, 12))
    network = Network(model, batch=2)
    chunks = [network.step(ids[:, start:end], [end - start] * 2)["logits"] for start, end in ((0, 7), (7, 8), (8, 12))]
    expected = run_given(graph.model, ids)
    assert np.abs(np.concatenate(chunks, axis=1) - expected).max() < 2e-5 * np.abs(expected).max()
    assert report.counts["InnerQLayers"] == 1
    assert [value.name for value in model.graph.inputs[:2]] == ["input_ids", "position_ids"]


REFUSED = {
    Form(mask="none"): "it is not causal: no mask and is_causal is 0",
    Form(mask="future"): "shows later tokens",
    Form(mask="window"): r"hides token 0 from token 4096: a window or padding \(1 sequences of 4160 tokens\)",
    Form(mask="bias"): "adds a bias to tokens that are seen",
    Form(mask="weights", attention="product", expand=2): "adds a bias to tokens that are seen",
    Form(expand=1): r"expanded along new axes \[1\], not behind the heads",
    Form(positions="none"): "reads token positions from nowhere",
}


@pytest.mark.parametrize("form", REFUSED, ids=str)
def test_what_would_be_wrong_is_refused_with_its_reason(form: Form) -> None:
    with pytest.raises(RewriteError, match=REFUSED[form]):
        rewrite(tiny_decoder(form), CacheConfig())


def test_attention_of_another_operator_set_is_named() -> None:
    """ONNX Runtime's own fused models keep their cache inside an operator that no rule takes apart."""
    graph = tiny_decoder(Form())
    node = next(node for node in graph.model.graph if node.op_type == "Attention")
    node.domain, node.op_type = "com.microsoft", "GroupQueryAttention"
    with pytest.raises(RewriteError, match=r"0 of 1 attention layers .*\n.*\n.*other operators: GroupQueryAttention"):
        rewrite(graph, CacheConfig())


def test_a_layer_that_is_missing_is_an_error_even_if_the_others_match() -> None:
    graph = dataclasses.replace(tiny_decoder(Form()), shape=dataclasses.replace(SHAPE, layers=2))
    with pytest.raises(RewriteError, match="1 of 2 attention layers could be rewritten"):
        rewrite(graph, CacheConfig())


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"heads": 8}, "its query has 4 heads, not the model's 8"),
        ({"kv_heads": 4}, "its key has 2 heads, not the model's 4"),
    ],
)
def test_sizes_that_are_not_the_models_are_named(sizes: dict[str, int], reason: str) -> None:
    graph = tiny_decoder(Form())
    with pytest.raises(RewriteError, match=reason):
        rewrite(dataclasses.replace(graph, shape=dataclasses.replace(SHAPE, **sizes)), CacheConfig())
