"""A model small enough to reason about, with the inputs and outputs of a rewritten decoder, and an engine folder of it.

Logits: one at (last token + tokens held) mod V. Present: the window counts tokens, the blocks are handed through.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from innerq_export.artifacts import ModelShape, OnnxModel
from innerq_export.engine import build_engine, default_profiles, staging
from innerq_export.engine.folder import seal
from innerq_export.spec import CacheConfig

VOCAB = 300
CACHE = CacheConfig(sink=2, recent=2)
SHAPE = ModelShape(layers=1, heads=1, kv_heads=1, head_dim=32, vocab=VOCAB, max_positions=4096)
_HALF, _INT8, _INT32, _INT64 = TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64
_WINDOW = ["B", 2, 1, CACHE.window_tokens, 32]
_PARTS = {
    "window": (_HALF, _WINDOW),
    "key_norm": (_HALF, ["B", 1, 32]),
    "key_codes": (_INT8, ["B", 1, "NB", 32, 32]),
    "key_scales": (_HALF, ["B", 1, "NB", 32, 1]),
    "value_codes": (_INT8, ["B", 1, "NB", 32, 32]),
    "value_scales": (_HALF, ["B", 1, "NB", 32]),
}


def toy_onnx(path: Path) -> OnnxModel:
    """Write the model to `path`."""
    lengths = [helper.make_tensor_value_info(name, _INT32, ["B"]) for name in ("past_length", "new_length")]
    ids = [helper.make_tensor_value_info(name, _INT64, ["B", "S"]) for name in ("input_ids", "position_ids")]
    past = [helper.make_tensor_value_info(f"past_{name}_0", *part) for name, part in _PARTS.items()]
    present = [helper.make_tensor_value_info(f"present_{name}_0", *part) for name, part in _PARTS.items()]
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", VOCAB])
    graph = helper.make_graph(_nodes(), "toy", [*ids, *lengths, *past], [logits, *present], _constants())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return OnnxModel(path, "native", CACHE, SHAPE, "float16", "toy")


def toy_engine(folder: Path, *, ready: bool = True, backend: str = "onnxruntime") -> Path:
    """Build an engine of the toy model in `folder`."""
    with staging(folder) as stage:
        model = toy_onnx(stage / "model.onnx")
        build_engine(model, stage, backend, default_profiles(SHAPE, CACHE, 2, 256))
    if ready:
        seal(folder, ready=True, parity={"summary": "toy"})
    return folder


def _nodes() -> list[onnx.NodeProto]:
    node = helper.make_node
    passed = [
        node("Identity", [f"past_{name}_0"], [f"present_{name}_0"])
        for name in _PARTS
        if name not in ("window", "key_norm")
    ]
    return [
        node("Cast", ["past_length"], ["past64"], to=_INT64),
        node("Cast", ["new_length"], ["new64"], to=_INT64),
        node("Sub", ["new64", "one"], ["before_last"]),
        node("Max", ["before_last", "zero"], ["last"]),
        node("Unsqueeze", ["last", "axis"], ["last_B1"]),
        node("GatherElements", ["input_ids", "last_B1"], ["token_B1"], axis=1),
        node("GatherElements", ["position_ids", "last_B1"], ["place_B1"], axis=1),
        node("Squeeze", ["token_B1", "axis"], ["token_B"]),
        node("Squeeze", ["place_B1", "axis"], ["place_B"]),
        node("Add", ["token_B", "place_B"], ["sum_B"]),
        node("Mod", ["sum_B", "vocab"], ["next_B"]),
        node("OneHot", ["next_B", "depth", "off_on"], ["logits"]),
        node("Cast", ["new_length"], ["new16"], to=_HALF),
        node("Unsqueeze", ["new16", "trailing"], ["new_B1111"]),
        node("Add", ["past_window_0", "new_B1111"], ["present_window_0"]),
        node("Identity", ["past_key_norm_0"], ["present_key_norm_0"]),
        *passed,
    ]


def _constants() -> list[onnx.TensorProto]:
    values = {
        "one": np.array([1], np.int64),
        "zero": np.array([0], np.int64),
        "axis": np.array([1], np.int64),
        "trailing": np.array([1, 2, 3, 4], np.int64),
        "vocab": np.array([VOCAB], np.int64),
        "depth": np.array(VOCAB, np.int64),
        "off_on": np.array([0, 1], np.float32),
    }
    return [numpy_helper.from_array(array, name) for name, array in values.items()]
