import numpy as np
import pytest
import torch
from torch import nn

from innerq_export.checkpoint import open_checkpoint
from innerq_export.errors import CheckpointError
from innerq_export.graph import experts, export_graph
from innerq_export.graph.reference import ReferencedTensor
from tests.graph.onnx_run import relative_error, run_onnx, run_torch, some_ids
from tests.graph.test_families import FAMILIES
from tests.models import tiny_model


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixtral")
    return open_checkpoint(str(tiny_model(folder, "mixtral", num_hidden_layers=1, **FAMILIES["mixtral"])))


def test_every_expert_refers_to_its_bytes_in_the_checkpoint(mixtral):
    weights = export_graph(mixtral).model.graph.initializers
    named = [name for name in mixtral.tensors if ".experts." in name]
    assert len(named) == 12
    for name in named:
        assert isinstance(weights[name].const_value, ReferencedTensor), name
        assert weights[name].const_value.offset == mixtral.tensors[name].offset


def test_an_expert_in_the_place_of_another_is_seen(mixtral, tmp_path, monkeypatch):
    right = experts.stored_names
    ids_BS = some_ids(2, 20)
    expected = run_torch(mixtral.folder, "float32", ids_BS)
    assert relative_error(run_onnx(export_graph(mixtral), tmp_path, ids_BS), expected) < 1e-2
    swapped = str.maketrans("01", "10")

    def swap(name):
        for found in right(name):
            before, experts_, after = found.partition(".experts.")
            yield before + experts_ + after.translate(swapped)[:1] + after[1:] if experts_ else found

    monkeypatch.setattr("innerq_export.graph.skeleton.stored_names", swap)
    assert relative_error(run_onnx(export_graph(mixtral), tmp_path, ids_BS), expected) > 0.1


def stacked(count=3, hidden=4, wide=6, **form) -> nn.Module:
    module = nn.Module()
    module.gate_up_proj = nn.Parameter(torch.zeros(count, 2 * wide, hidden))
    module.down_proj = nn.Parameter(torch.zeros(count, hidden, wide))
    usual = dict(has_gate=True, is_concatenated=True, has_bias=False, is_transposed=False, has_post_expert_norm=False)
    for name, value in (usual | form).items():
        setattr(module, name, value)
    return module


def with_weights(module: nn.Module) -> nn.Module:
    experts.separate_experts(module)
    module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(generator=generator)
    module.act_fn = nn.SiLU()
    return module


def test_the_sum_is_over_those_that_were_picked():
    module = with_weights(stacked())
    hidden_TH = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    index_TK = torch.tensor([[0, 1], [2, 0], [1, 2], [2, 1], [0, 2]])
    weight_TK = torch.rand(5, 2, generator=torch.Generator().manual_seed(2))
    got_TH = experts._every_expert(module, hidden_TH, index_TK, weight_TK)
    for token in range(5):
        expected_H = torch.zeros(4)
        for expert, weight in zip(index_TK[token].tolist(), weight_TK[token], strict=True):
            one = module.get_submodule(str(expert))
            inner = nn.functional.silu(one.gate_proj(hidden_TH[token])) * one.up_proj(hidden_TH[token])
            expected_H += weight * one.down_proj(inner)
        np.testing.assert_allclose(got_TH[token].detach(), expected_H.detach(), rtol=1e-5, atol=1e-6)


def test_an_expert_that_overflows_on_a_token_it_was_not_picked_for_says_nothing():
    module = with_weights(stacked())
    with torch.no_grad():
        module.get_submodule("1").down_proj.weight.fill_(torch.inf)
    got_TH = experts._every_expert(module, torch.ones(1, 4), torch.tensor([[0, 2]]), torch.tensor([[0.5, 0.5]]))
    assert got_TH.isfinite().all()


@pytest.mark.parametrize("form", [{"has_bias": True}, {"is_transposed": True}, {"is_concatenated": False}])
def test_experts_of_another_form_are_refused_by_name(form):
    with pytest.raises(CheckpointError, match="Module has experts of a form"):
        experts.separate_experts(stacked(**form))
