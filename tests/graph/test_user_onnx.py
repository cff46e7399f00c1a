import json
import os
import shutil

import onnx
import onnx_ir as ir
import pytest
import torch

from innerq_export.artifacts import ModelShape
from innerq_export.errors import CheckpointError
from innerq_export.graph import open_graph
from tests.graph.onnx_run import relative_error, run_torch, some_ids

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch about its own exporter


class PlainDecoder(torch.nn.Module):
    """What a user exports by hand: ids and mask in, logits out."""

    def __init__(self, folder, attention):
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention)

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def export_plainly(checkpoint, file, opset, attention):
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    ones = torch.ones(2, 9, dtype=torch.int64)
    program = torch.onnx.export(
        PlainDecoder(checkpoint.folder, attention).eval(),
        (ones, ones.clone()),
        dynamo=True,
        opset_version=opset,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes=(sizes, sizes),
        verbose=False,
    )
    program.save(file, external_data=True)
    return file


@pytest.fixture(scope="session")
def exported(tied_fp16, tmp_path_factory):
    return export_plainly(tied_fp16, tmp_path_factory.mktemp("plain") / "model.onnx", 23, "sdpa")


@pytest.fixture
def file(exported, tmp_path):
    shutil.copytree(exported.parent, tmp_path / "user")
    return tmp_path / "user" / exported.name


def test_a_plain_export_opens_with_its_sizes_and_without_its_weights(file):
    graph = open_graph(file)
    assert graph.shape == ModelShape(2, 4, 2, 64, 264, 131072)
    assert graph.dtype == "float32"
    large = [value.const_value for value in graph.model.graph.initializers.values() if value.const_value.nbytes > 9000]
    assert large and all(isinstance(tensor, ir.ExternalTensor) for tensor in large)


def test_weights_stay_readable_when_an_engine_folder_links_their_file(file, tmp_path):
    graph = open_graph(file)
    os.link(next(file.parent.glob("*.data")), tmp_path / "linked")
    assert graph.model.graph.initializers["model.model.norm.weight"].const_value.numpy().shape == (128,)


def test_a_config_beside_it_says_more(file, tied_fp16):
    shutil.copy(tied_fp16.folder / "config.json", file.parent)
    assert open_graph(file).shape == tied_fp16.shape


def test_an_older_opset_is_converted_and_still_right(tied_fp16, tmp_path):
    import onnxruntime

    file = export_plainly(tied_fp16, tmp_path / "model.onnx", 18, "eager")
    with pytest.raises(CheckpointError, match=r"put the model's config\.json beside the ONNX file"):
        open_graph(file)
    shutil.copy(tied_fp16.folder / "config.json", tmp_path)
    graph = open_graph(file)
    assert graph.model.opset_imports[""] == 23
    ir.save(graph.model, tmp_path / "converted.onnx", external_data="converted.data")
    session = onnxruntime.InferenceSession(tmp_path / "converted.onnx")
    ids_BS = some_ids(2, 12)
    (logits,) = session.run(None, {"input_ids": ids_BS.numpy(), "attention_mask": torch.ones_like(ids_BS).numpy()})
    expected = run_torch(tied_fp16.folder, "float32", ids_BS)
    assert relative_error(torch.from_numpy(logits), expected) < 2e-5


def test_digest_follows_file_and_data(file):
    before = open_graph(file).digest
    assert open_graph(file).digest == before
    data = next(path for path in file.parent.iterdir() if path.suffix == ".data")
    data.write_bytes(data.read_bytes() + b"\0")
    assert open_graph(file).digest != before


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "link"])
def test_external_data_outside_the_folder_is_refused_unread(file, location):
    (file.parent.parent / "secret").write_bytes(bytes(1 << 20))
    (file.parent / "link").symlink_to(file.parent.parent / "secret")
    point_external_data(file, location=location)
    with pytest.raises(CheckpointError, match=r"external data of tensor[\s\S]*a path inside the model's folder"):
        open_graph(file)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"location": "missing.data"}, "a file that can be read"),
        ({"location": "loop"}, "a file that can be read"),
        ({"location": "."}, "not a regular file"),
        ({"offset": "99999999999"}, "bytes inside the"),
        ({"length": "5"}, "bytes inside the"),
    ],
    ids=str,
)
def test_external_data_that_is_not_there(file, entry, message):
    (file.parent / "loop").symlink_to(file.parent / "loop")
    point_external_data(file, **entry)
    with pytest.raises(CheckpointError, match=message):
        open_graph(file)


def point_external_data(file, **entry):
    model = onnx.load(file, load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    fields = {item.key: item.value for item in tensor.external_data} | entry
    del tensor.external_data[:]
    for key, value in fields.items():
        tensor.external_data.add(key=key, value=value)
    file.write_bytes(model.SerializeToString())


def test_external_data_of_a_constant_is_checked_too(file):
    model = onnx.load(file, load_external_data=False)
    external = onnx.TensorProto(name="c", dims=[4], data_type=1, data_location=onnx.TensorProto.EXTERNAL)
    external.external_data.add(key="location", value="../secret")
    node = onnx.helper.make_node("Constant", [], ["unused_constant"], value=external)
    model.graph.node.insert(0, node)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="'c'"):
        open_graph(file)


@pytest.mark.parametrize("content", [b"", b"not a protobuf", b"\x08\x0a", json.dumps({"a": 1}).encode()], ids=repr)
def test_what_is_no_onnx(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not an ONNX model|not a text decoder"):
        open_graph(tmp_path / "model.onnx")


def test_no_such_file_and_a_folder(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        open_graph(tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_graph(tmp_path)


def tiny_onnx(folder, opset=23, ids="input_ids", ids_type=7, out="logits", out_type=1, rank=2):
    inputs = [onnx.helper.make_tensor_value_info(ids, ids_type, ["B", "S"][:rank])]
    outputs = [onnx.helper.make_tensor_value_info(out, out_type, ["B", "S", 9])]
    nodes = [onnx.helper.make_node("Cast", [ids], [out], to=out_type)]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)]), folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": "tokens"}, "input 'input_ids' int64"),
        ({"ids_type": 6}, "input 'input_ids' int64"),
        ({"rank": 1}, "input 'input_ids' int64"),
        ({"out": "hidden"}, "first output 'logits'"),
        ({"out_type": 11}, "unsupported dtype"),
        ({"opset": 13}, "opset too old"),
        ({}, "sizes cannot be read"),
    ],
    ids=str,
)
def test_what_is_no_decoder_is_refused_with_what_was_expected(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        open_graph(tiny_onnx(tmp_path, **change))
