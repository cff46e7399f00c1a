import io

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from innerq_export.checkpoint.header import read_header
from innerq_export.errors import CheckpointError
from innerq_export.graph import cast
from innerq_export.graph.scale import ScaledTensor

FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT


def tensor_of(folder, array, dtype, factor_R):
    save_file({"pad": np.zeros(3, np.uint8), "w": array}, folder / "m.safetensors")
    return ScaledTensor(read_header(folder / "m.safetensors")["w"], dtype, factor_R)


@pytest.mark.parametrize("source", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("target", [FP16, FP32])
@pytest.mark.parametrize("shape", [(6, 5), (6,), (2, 3), (6, 2, 3)], ids=str)
def test_every_row_by_its_factor_rounded_once(tmp_path, source, target, shape, monkeypatch):
    monkeypatch.setattr(cast, "PIECE_ITEMS", 4)  # chunks that begin and end inside rows
    random = np.random.default_rng(0)
    array, factor_R = random.standard_normal(shape).astype(source), random.uniform(0.1, 9, 6)
    tensor = tensor_of(tmp_path, array, target, factor_R)
    wide = array.astype(np.float64).reshape(6, -1) * factor_R[:, None]
    expected = wide.reshape(shape).astype(np.float16 if target == FP16 else np.float32)
    written = io.BytesIO()
    tensor.tofile(written)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert written.getvalue() == expected.tobytes()


@settings(max_examples=50, deadline=None)
@given(powers=st.lists(st.integers(-3, 3), min_size=4, max_size=4))
def test_powers_of_two_lose_nothing(powers, tmp_path_factory):
    array = np.random.default_rng(1).uniform(1, 2, (4, 8)).astype(np.float16)
    factor_R = 2.0 ** np.array(powers)
    folder = tmp_path_factory.getbasetemp()
    there = tensor_of(folder, array, FP16, factor_R).numpy()
    np.testing.assert_array_equal(tensor_of(folder, there, FP16, 1 / factor_R).numpy(), array)


def test_a_product_that_leaves_fp16_is_refused_by_name(tmp_path):
    tensor = tensor_of(tmp_path, np.full((2, 2), 60_000, np.float32), FP16, np.array([1.0, 2.0]))
    with pytest.raises(CheckpointError, match=r"tensor 'w' of m.safetensors does not fit FLOAT16[\s\S]*120000"):
        tensor.numpy()
