"""Products that read mapped weights: the same numbers, whatever form the product had, and no copy of the weights."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from innerq_export.runtime.mapped_weights import read_weights_in_place

SIZE = 48


def decoder(dtype, turned):
    """x [N, 48] times two matrices; the second also read by a Gather, as tied embeddings are."""
    rng = np.random.default_rng(0)
    weights = [(rng.standard_normal((SIZE, SIZE)) / 7).astype(dtype) for _ in "ab"]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes, value = [helper.make_node("Gather", ["b", "ids"], ["x"])], "x"
    for name in "ab":
        if turned:
            nodes.append(helper.make_node("Transpose", [name], [f"{name}T"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", [value, f"{name}T" if turned else name], [f"y{name}"], name=name))
        value = f"y{name}"
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N"])],
        [helper.make_tensor_value_info(value, kind, ["N", SIZE])],
        [numpy_helper.from_array(weight, name) for name, weight in zip("ab", weights, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"ids": np.array([3, 1, 40, 3])})[0]


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_model_computes_the_same(dtype, turned):
    model = decoder(dtype, turned)
    expected = run(model)
    assert read_weights_in_place(model) == 2
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("FusedMatMul") == 2 and not {"MatMul", "Transpose"} & set(kinds)
    onnx.checker.check_model(model)
    got = run(model)
    assert got.dtype == dtype and np.abs(expected).max() > 0.1
    np.testing.assert_allclose(got, expected, atol=2e-3 if dtype == np.float16 else 1e-6)


def test_other_products_are_left_alone():
    model = decoder(np.float16, turned=True)
    model.graph.node.append(helper.make_node("MatMul", ["ya", "yb"], ["square"]))
    model.graph.node.append(helper.make_node("Transpose", ["a"], ["kept"], perm=[1, 0]))
    model.graph.output.append(onnx.ValueInfoProto(name="kept"))
    assert read_weights_in_place(model) == 2
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMul") == kinds.count("Transpose") == 1


def test_a_model_without_weights_needs_no_domain_of_onnx_runtime():
    model = decoder(np.float16, turned=True)
    del model.graph.initializer[:]
    before = model.SerializeToString()
    assert read_weights_in_place(model) == 0 and model.SerializeToString() == before


_PEAK = """
import re, sys
import numpy as np
from pathlib import Path
from innerq_export.runtime.model_file import open_model

open_model(Path(sys.argv[1]), in_place=sys.argv[2] == "True").run(None, {"x": np.ones((1, 2048), np.float16)})
print(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="resident sets come from /proc")
def test_memory_holds_one_matrix_at_a_time_not_all(tmp_path):
    """Twelve matrices of 8 MB in fp16: copies in fp32 would be 201 MB, one of them is 17 MB."""
    rng = np.random.default_rng(0)
    names = [f"w{number}" for number in range(12)]
    nodes, value = [], "x"
    for name in names:
        nodes.append(helper.make_node("Transpose", [name], [f"{name}T"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", [value, f"{name}T"], [f"y{name}"]))
        value = f"y{name}"
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", half, ["N", 2048])],
        [helper.make_tensor_value_info(value, half, ["N", 2048])],
        [numpy_helper.from_array((rng.random((2048, 2048), np.float32) / 1e3).astype(np.float16), n) for n in names],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data")

    def peak(in_place):
        words = [sys.executable, "-c", _PEAK, str(tmp_path / "model.onnx"), str(in_place)]
        return 1024 * int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    weights = 12 * 2048 * 2048 * 2
    assert peak(in_place=False) - peak(in_place=True) > weights, "else this measures nothing"
    assert peak(in_place=True) < weights + (150 << 20)
