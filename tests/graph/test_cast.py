import io
import threading

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
from innerq_export.graph.cast import CastTensor
from innerq_export.graph.pieces import PieceWriter

FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT


def tensor_of(folder, array, dtype):
    save_file({"pad": np.zeros(3, np.uint8), "w": array}, folder / "m.safetensors")
    return CastTensor(read_header(folder / "m.safetensors")["w"], dtype)


@pytest.mark.parametrize("source", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize("target", [FP16, FP32])
def test_equals_the_cast_of_the_whole(tmp_path, source, target, monkeypatch):
    monkeypatch.setattr(cast, "PIECE_ITEMS", 7)
    array = np.random.default_rng(0).standard_normal((5, 6)).astype(source)
    tensor = tensor_of(tmp_path, array, target)
    expected = array.astype(np.float16 if target == FP16 else np.float32)
    written = io.BytesIO()
    tensor.tofile(written)
    np.testing.assert_array_equal(tensor.numpy(), expected)
    assert tensor.tobytes() == written.getvalue() == expected.tobytes()
    assert (tensor.shape, tensor.dtype, tensor.nbytes) == ([5, 6], target, expected.nbytes)


@settings(max_examples=100, deadline=None)
@given(bits=st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20))
def test_any_bf16_is_rounded_to_even_or_refused(tmp_path_factory, bits):
    array = np.array(bits, np.uint16).view(ml_dtypes.bfloat16)
    wide = array.astype(np.float32)
    with np.errstate(over="ignore"):
        expected = wide.astype(np.float16)
    tensor = tensor_of(tmp_path_factory.getbasetemp(), array, FP16)
    if np.isfinite(expected).all():
        np.testing.assert_array_equal(tensor.numpy(), expected)
    else:
        with pytest.raises(CheckpointError, match="tensor 'w'"):
            tensor.numpy()


def test_the_tensor_that_overflows_is_named_with_its_value(tmp_path):
    array = np.array([1.0, 70_000.0], np.float32)
    assert np.isfinite(tensor_of(tmp_path, array, FP32).numpy()).all()
    with pytest.raises(
        CheckpointError, match=r"tensor 'w' of m.safetensors does not fit FLOAT16[\s\S]*65504[\s\S]*70000"
    ):
        tensor_of(tmp_path, array, FP16).tofile(io.BytesIO())


def test_a_file_that_shrank_since_it_was_opened(tmp_path):
    tensor = tensor_of(tmp_path, np.ones(100, np.float32), FP16)
    content = (tmp_path / "m.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(content[:-40])
    with pytest.raises(CheckpointError, match="truncated inside tensor 'w'"):
        tensor.numpy()


def test_a_scalar_and_an_empty_tensor(tmp_path):
    assert tensor_of(tmp_path, np.array(2.5, np.float32), FP16).numpy() == np.float16(2.5)
    assert tensor_of(tmp_path, np.ones((0, 4), np.float32), FP16).tobytes() == b""


def test_a_file_gets_what_a_stream_gets_from_where_it_stood(tmp_path, monkeypatch):
    monkeypatch.setattr(cast, "PIECE_ITEMS", 100)
    array = np.random.default_rng(0).standard_normal(1001).astype(ml_dtypes.bfloat16)
    tensor = tensor_of(tmp_path, array, FP16)
    with (tmp_path / "out").open("wb") as file:
        file.write(b"before")
        tensor.tofile(file)
        file.write(b"after")
    assert (tmp_path / "out").read_bytes() == b"before" + array.astype(np.float16).tobytes() + b"after"


def test_pieces_are_made_by_two_threads_each_with_its_own_buffers(tmp_path):
    together = threading.Barrier(2, timeout=20)

    def make(start, result, scratch):
        together.wait()
        result[:] = start + np.arange(result.size)
        together.wait()

    with (tmp_path / "out").open("wb") as file:
        PieceWriter(8, np.dtype("<i4"), make, size=2, scratch=1).write(file)
    assert np.fromfile(tmp_path / "out", "<i4").tolist() == list(range(8))


def test_an_error_in_a_piece_ends_the_writing(tmp_path):
    made = []

    def make(start, result, scratch):
        made.append(start)
        raise CheckpointError("no")

    with (tmp_path / "out").open("wb") as file, pytest.raises(CheckpointError, match="no"):
        PieceWriter(10_000, np.dtype("<i4"), make, size=1, scratch=1).write(file)
    assert len(made) < 10_000
