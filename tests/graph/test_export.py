import os
import subprocess
import sys

import onnx
import onnx_ir as ir
import pytest
import torch

from innerq_export.checkpoint import open_checkpoint
from innerq_export.errors import ConfigError
from innerq_export.graph import export_graph
from innerq_export.graph.cast import CastTensor
from innerq_export.graph.reference import ReferencedTensor
from tests.graph.onnx_run import positions_of, relative_error, run_onnx, run_torch, some_ids
from tests.graph.sparse import sparse_llama
from tests.models import tiny_llama

FP32_TOLERANCE = 2e-5  # sums of up to 192 products in another order; a float32 has 6e-8
FP16_TOLERANCE = 1e-2  # a dozen roundings to 11 bits (5e-4) along two layers


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 33), (3, 40)])
def test_fp32_equals_torch(untied_bf16, graph_fp32, tmp_path, batch, length):
    ids_BS = some_ids(batch, length)
    expected = run_torch(untied_bf16.folder, "float32", ids_BS)
    assert relative_error(run_onnx(graph_fp32, tmp_path, ids_BS), expected) < FP32_TOLERANCE


def test_fp16_equals_torch(tied_fp16, graph_fp16, tmp_path):
    ids_BS = some_ids(2, 40)
    expected = run_torch(tied_fp16.folder, "float16", ids_BS)
    got = run_onnx(graph_fp16, tmp_path, ids_BS)
    assert got.dtype == torch.float16
    assert relative_error(got, expected) < FP16_TOLERANCE


def test_positions_are_read_from_the_input(untied_bf16, graph_fp32, tmp_path):
    ids_BS = some_ids(2, 9)
    shifted_BS = positions_of(ids_BS) * torch.tensor([[1], [3]]) + 100
    expected = run_torch(untied_bf16.folder, "float32", ids_BS, shifted_BS)
    assert relative_error(run_onnx(graph_fp32, tmp_path, ids_BS, shifted_BS), expected) < FP32_TOLERANCE
    assert relative_error(run_onnx(graph_fp32, tmp_path, ids_BS), expected) > 100 * FP32_TOLERANCE


def test_the_check_sees_two_swapped_norms(untied_bf16, graph_fp32, tmp_path):
    names = [f"model.layers.0.{norm}_layernorm.weight" for norm in ("input", "post_attention")]
    values = [graph_fp32.model.graph.initializers[name] for name in names]
    values[0].const_value, values[1].const_value = values[1].const_value, values[0].const_value
    try:
        ids_BS = some_ids(1, 33)
        got = run_onnx(graph_fp32, tmp_path, ids_BS)
        assert relative_error(got, run_torch(untied_bf16.folder, "float32", ids_BS)) > 100 * FP32_TOLERANCE
    finally:
        values[0].const_value, values[1].const_value = values[1].const_value, values[0].const_value


def test_interface_and_operators(graph_fp16, tmp_path):
    graph = graph_fp16.model.graph
    assert [(value.name, value.dtype, list(map(str, value.shape))) for value in (*graph.inputs, *graph.outputs)] == [
        ("input_ids", ir.DataType.INT64, ["B", "S"]),
        ("position_ids", ir.DataType.INT64, ["B", "S"]),
        ("logits", ir.DataType.FLOAT16, ["B", "S", "264"]),
    ]
    attentions = [node for node in graph if node.op_type == "Attention"]
    assert [list(map(str, attentions[1].inputs[i].shape)) for i in range(3)] == [["B", n, "S", "64"] for n in "422"]
    assert all(node.attributes.get_int("is_causal") == 1 and len(node.inputs) == 3 for node in attentions)
    assert graph_fp16.model.opset_imports == {"": 23}
    assert len(graph_fp16.model.functions) == 0
    ir.save(graph_fp16.model, tmp_path / "m.onnx", external_data="m.data")
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)


def test_nodes_are_named_after_their_module_once(graph_fp16):
    names = [node.name for node in graph_fp16.model.graph]
    assert len(set(names)) == len(names)
    assert "model.layers.1.self_attn.q_proj/MatMul" in names
    assert "model.layers.0.self_attn/Attention" in names


def test_weights_of_the_graphs_dtype_are_references_into_the_checkpoint(tied_fp16, graph_fp16):
    initializers = graph_fp16.model.graph.initializers
    for name, ref in tied_fp16.tensors.items():
        tensor = initializers[name].const_value
        assert isinstance(tensor, ReferencedTensor)
        assert (tensor.path, tensor.offset, tensor.length) == (str(ref.file), ref.offset, ref.nbytes)


def test_tied_embeddings_are_one_initializer(graph_fp16, graph_fp32):
    assert "lm_head.weight" not in graph_fp16.model.graph.initializers
    readers = [use.node.op_type for use in graph_fp16.model.graph.initializers["model.embed_tokens.weight"].uses()]
    assert sorted(readers) == ["Gather", "Transpose"]
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= graph_fp32.model.graph.initializers.keys()


def test_weights_of_another_dtype_are_cast_when_read(untied_bf16, graph_fp32):
    for name in untied_bf16.tensors:
        assert isinstance(graph_fp32.model.graph.initializers[name].const_value, CastTensor)


def test_a_reference_is_readable_though_an_engine_folder_links_its_file(tied_fp16, graph_fp16, tmp_path):
    os.link(tied_fp16.folder / "model.safetensors", tmp_path / "linked")
    tensor = graph_fp16.model.graph.initializers["model.norm.weight"].const_value
    assert tensor.numpy().shape == (128,)


def test_digests_tell_dtypes_and_checkpoints_apart(tied_fp16, graph_fp16, graph_fp32):
    assert graph_fp16.digest != graph_fp32.digest
    assert len(graph_fp16.digest) == 64


def test_another_dtype_is_refused(tied_fp16):
    with pytest.raises(ConfigError, match="dtype 'int8' is not supported"):
        export_graph(tied_fp16, "int8")


def test_importing_the_stage_loads_neither_torch_nor_onnx():
    script = "import sys, innerq_export.graph\nprint({'torch', 'onnx', 'onnx_ir'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_no_weight_is_read_and_none_takes_memory(tmp_path):
    """A checkpoint of 3 GB that has no bytes on disk (sparse) exports within 700 MB.

    The peak is VmHWM: ru_maxrss keeps what the parent held when it forked.
    """
    folder = sparse_llama(tmp_path / "big", num_hidden_layers=1, vocab_size=190_000, hidden_size=8192)
    assert sum(ref.nbytes for ref in open_checkpoint(str(folder)).tensors.values()) > 3_000_000_000
    script = (
        "from pathlib import Path\n"
        "from innerq_export.checkpoint import open_checkpoint\n"
        "from innerq_export.graph import export_graph\n"
        f"export_graph(open_checkpoint({str(folder)!r}))\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.split('VmHWM:')[1].split()[0])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 700_000
    assert sum(file.stat().st_blocks for file in folder.iterdir()) * 512 < 1_000_000


def test_llama3_rope_scaling_is_in_the_frequencies(tmp_path):
    scaling = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope = scaling | {"original_max_position_embeddings": 64}
    folder = tiny_llama(tmp_path / "model", num_hidden_layers=1, dtype="float32", rope_parameters=rope)
    graph = export_graph(open_checkpoint(str(folder)), "float32")
    ids_BS = some_ids(1, 200)
    assert relative_error(run_onnx(graph, tmp_path, ids_BS), run_torch(folder, "float32", ids_BS)) < FP32_TOLERANCE
