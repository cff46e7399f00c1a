import dataclasses

import pytest

from innerq_export.errors import CheckpointError
from innerq_export.graph import export_graph, trace
from innerq_export.graph.bind import find_tensors


@pytest.fixture(autouse=True)
def tracing_would_be_too_late(monkeypatch):
    monkeypatch.setattr(trace, "trace", lambda *args: pytest.fail("traced a checkpoint that cannot be bound"))


def without(checkpoint, *names):
    tensors = {name: ref for name, ref in checkpoint.tensors.items() if name not in names}
    return dataclasses.replace(checkpoint, tensors=tensors)


def with_ref(checkpoint, name, **fields):
    return dataclasses.replace(
        checkpoint, tensors=checkpoint.tensors | {name: dataclasses.replace(checkpoint.tensors[name], **fields)}
    )


def test_missing_tensors_are_named(tied_fp16):
    broken = without(tied_fp16, "model.norm.weight", "model.layers.1.mlp.up_proj.weight")
    with pytest.raises(
        CheckpointError, match=r"2 tensors are missing[\s\S]*layers.1.mlp.up_proj[\s\S]*model.norm.weight"
    ):
        export_graph(broken)


def test_many_missing_tensors_are_counted(tied_fp16):
    names = [name for name in tied_fp16.tensors if "layers.0" in name]
    with pytest.raises(CheckpointError, match=r"9 tensors are missing[\s\S]* and 4 more"):
        export_graph(without(tied_fp16, *names))


def test_an_untied_model_needs_its_head(untied_bf16):
    with pytest.raises(CheckpointError, match=r"1 tensors are missing[\s\S]*lm_head.weight"):
        export_graph(without(untied_bf16, "lm_head.weight"))


def test_a_tie_that_the_weights_contradict_is_named(tied_fp16, untied_bf16):
    head = untied_bf16.tensors["lm_head.weight"]
    both = dataclasses.replace(tied_fp16, tensors=tied_fp16.tensors | {"lm_head.weight": head})
    with pytest.raises(CheckpointError, match=r"ties 'model.embed_tokens.weight' and 'lm_head.weight'[\s\S]*fix: "):
        export_graph(both)


def test_a_tie_stored_twice_is_one_tensor(tied_fp16):
    embedding = tied_fp16.tensors["model.embed_tokens.weight"]
    copy = dataclasses.replace(embedding, name="lm_head.weight")
    both = dataclasses.replace(tied_fp16, tensors=tied_fp16.tensors | {"lm_head.weight": copy})
    names = ("model.embed_tokens.weight", "lm_head.weight")
    found = find_tensors(both, dict.fromkeys(names, names), dict.fromkeys(names, embedding.shape))
    assert set(found.values()) == {embedding}


def test_a_wrong_shape_is_named(tied_fp16):
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' has another shape[\s\S]*\(128,\)[\s\S]*\(64, 2\)"):
        export_graph(with_ref(tied_fp16, "model.norm.weight", shape=(64, 2)))


def test_integer_weights_are_refused(tied_fp16):
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' has an unsupported dtype[\s\S]*I8"):
        export_graph(with_ref(tied_fp16, "model.norm.weight", dtype="I8"))


def test_a_config_that_transformers_cannot_build(tied_fp16):
    config = dict(tied_fp16.config) | {"hidden_act": "no_such_function"}
    with pytest.raises(CheckpointError, match=r"transformers cannot build this model[\s\S]*no_such_function"):
        export_graph(dataclasses.replace(tied_fp16, config=config))
