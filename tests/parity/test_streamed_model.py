"""A large model's weights stay in their files, and parity says what it says of a small one."""

import pytest
import torch
from transformers import LlamaForCausalLM

from innerq_export.checkpoint import open_checkpoint
from innerq_export.graph import export_graph
from innerq_export.parity import cases, check_engine
from innerq_export.parity.cases import prompts_case
from innerq_export.parity.runners.onnxruntime import OnnxRuntimeRunner
from innerq_export.parity.streamed_model import StreamedTorchModel
from innerq_export.parity.torch_model import TorchModel
from tests.engine.real import engine_of
from tests.models import tiny_llama
from tests.parity import faults


def attention(layer, query, key, value, scale):
    return query * scale + key.sum() + value.mean()


def both(checkpoint, dtype):
    return TorchModel(checkpoint.folder, dtype), StreamedTorchModel(checkpoint, dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_it_says_what_the_model_in_memory_says(tiny_checkpoint, dtype):
    ids_BS = torch.arange(14).reshape(2, 7)
    whole, streamed = both(tiny_checkpoint, dtype)
    assert torch.equal(streamed.unquantised(ids_BS[0]), whole.unquantised(ids_BS[0]))
    positions_BS = torch.arange(7).expand(2, 7)
    expected = whole.with_attention(ids_BS, positions_BS, attention)
    assert torch.equal(streamed.with_attention(ids_BS, positions_BS, attention), expected)
    assert torch.equal(streamed.with_attention(ids_BS, positions_BS, attention), expected), "the second time too"


def test_weights_are_rounded_to_the_dtype_of_the_engine(tiny_checkpoint, tmp_path):
    LlamaForCausalLM.from_pretrained(tiny_checkpoint.folder).float().apply(_unround).save_pretrained(tmp_path)
    ids_T = torch.arange(20)
    whole, streamed = both(open_checkpoint(str(tmp_path)), "float16")
    assert torch.equal(streamed.unquantised(ids_T), whole.unquantised(ids_T))
    exact = StreamedTorchModel(open_checkpoint(str(tmp_path)), "float32").unquantised(ids_T)
    assert not torch.equal(streamed.unquantised(ids_T), exact)


def test_no_weight_stays_in_memory(tiny_checkpoint):
    _, streamed = both(tiny_checkpoint, "float16")
    streamed.unquantised(torch.arange(5))
    held = {name: parameter.untyped_storage().nbytes() for name, parameter in streamed._model.named_parameters()}
    assert held and max(held.values()) <= 4, "placeholders of one value"


@pytest.fixture
def large(monkeypatch):
    """Every engine counts as large; yields how runners were opened."""
    opened = []
    init = OnnxRuntimeRunner.__init__

    def noted(self, *words, **options):
        opened.append(options)
        init(self, *words, **options)

    monkeypatch.setattr(cases, "LARGE_BYTES", 0)
    monkeypatch.setattr(OnnxRuntimeRunner, "__init__", noted)
    return opened


def test_a_sound_engine_passes_as_a_large_one(tiny_engine, tiny_checkpoint, large):
    report = check_engine(tiny_engine, tiny_checkpoint, cases=(prompts_case(170, decode=2),))
    assert report.passed and large[0]["in_place"]
    assert {rung.name for rung in report.rungs if rung.calls} >= {"cache", "attention", "keys and values", "logits"}


def test_a_fault_is_found_in_a_large_one(tiny_engine, tiny_checkpoint, tmp_path, large):
    broken = faults.spoiled(tiny_engine, tmp_path / "engine", faults.positions_late)
    report = check_engine(broken, tiny_checkpoint, cases=(prompts_case(40, decode=1),))
    assert not report.passed and report.finding.rung == "keys and values"


def _unround(module):
    for parameter in module.parameters(recurse=False):
        parameter.data.mul_(1 + 1e-4)


def test_many_heads_as_large_models_have_them(tmp_path):
    """16 query and 4 KV heads: function bodies know their model's own geometry and no other."""
    sizes = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64, "num_hidden_layers": 1}
    checkpoint = open_checkpoint(str(tiny_llama(tmp_path / "model", **sizes)))
    engine = engine_of(checkpoint, export_graph(checkpoint), tmp_path / "engine")
    report = check_engine(engine, checkpoint, cases=(prompts_case(33, decode=1),))
    assert report.passed, report.text()
