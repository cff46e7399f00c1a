import dataclasses

import numpy as np
import pytest

from innerq_export.errors import CheckpointError
from innerq_export.graph import write_casts
from innerq_export.graph.cast import CastTensor
from innerq_export.graph.reference import ReferencedTensor


@pytest.fixture
def graph(graph_fp32):
    return dataclasses.replace(graph_fp32, model=graph_fp32.model.clone())


def weights(graph):
    return {name: value.const_value for name, value in graph.model.graph.initializers.items()}


def test_casts_become_references_to_the_same_values(graph, untied_bf16, tmp_path):
    before = {name: tensor.numpy() for name, tensor in weights(graph).items()}
    size = write_casts(graph, tmp_path / "cast.data")
    assert size == (tmp_path / "cast.data").stat().st_size
    after = weights(graph)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name].numpy(), array, err_msg=name)
    references = [tensor for tensor in after.values() if isinstance(tensor, ReferencedTensor)]
    assert len(references) == len(untied_bf16.tensors) and all(tensor.offset % 64 == 0 for tensor in references)
    assert not any(isinstance(tensor, CastTensor) for tensor in after.values())


def test_a_graph_that_needs_no_cast_gets_no_file(graph_fp16, tmp_path):
    assert write_casts(graph_fp16, tmp_path / "cast.data") == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [CheckpointError("too large"), OSError(28, "No space left"), KeyboardInterrupt()])
def test_an_error_leaves_no_file_and_the_graph_as_it_was(graph, tmp_path, monkeypatch, error):
    def half_written(tensor, stream):
        stream.write(b"half")
        if tensor.name == "model.norm.weight":
            raise error

    monkeypatch.setattr(CastTensor, "tofile", half_written)
    before = weights(graph)
    with pytest.raises(type(error)):
        write_casts(graph, tmp_path / "cast.data")
    assert list(tmp_path.iterdir()) == []
    assert weights(graph) == before


def test_an_existing_file_is_not_touched(graph, tmp_path):
    (tmp_path / "cast.data").write_text("mine")
    with pytest.raises(FileExistsError):
        write_casts(graph, tmp_path / "cast.data")
    assert (tmp_path / "cast.data").read_text() == "mine"
