"""Running rewritten networks step by step in ONNX Runtime, and decoders as they were given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime

NUMPY = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int8)": np.int8}


def session_of(model: ir.Model) -> onnxruntime.InferenceSession:
    """Return a quiet single-threaded session; the model's weights must be in memory."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])


def run_given(model: ir.Model, ids: np.ndarray) -> np.ndarray:
    """Return the logits of a decoder as it was given, with no past and nothing masked but the future."""
    session = session_of(model)
    feeds = {}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            sizes = [size if isinstance(size, int) else 0 for size in value.shape]
            feeds[value.name] = np.zeros([len(ids), *sizes[1:]], np.float32)
        elif value.name == "position_ids":
            feeds[value.name] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
        else:
            feeds[value.name] = np.ones_like(ids) if "mask" in value.name else ids
    return session.run(["logits"], feeds)[0]


class Network:
    """A rewritten network and its cache; `cache` holds past_* by name."""

    def __init__(self, model: ir.Model, batch: int, capacity_blocks: int = 4) -> None:
        self.session = session_of(model)
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.length_B = np.zeros(batch, np.int32)
        self.cache = {}
        for value in self.session.get_inputs():
            if value.name.startswith("past_") and value.name != "past_length":
                sizes = {"B": batch, "NB": capacity_blocks}
                fill = np.ones if "key_norm" in value.name else np.zeros
                self.cache[value.name] = fill([sizes.get(size, size) for size in value.shape], NUMPY[value.type])

    def step(self, ids_BS: np.ndarray, new_length: Sequence[int]) -> dict[str, np.ndarray]:
        """Feed new tokens (right-padded); return all outputs by name and keep the cache."""
        new_length_B = np.array(new_length, np.int32)
        feeds = {"input_ids": ids_BS, "past_length": self.length_B, "new_length": new_length_B, **self.cache}
        feeds["position_ids"] = self.length_B[:, None].astype(np.int64) + np.arange(ids_BS.shape[1])
        outputs = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        self.length_B = self.length_B + new_length_B
        self.cache = {name: outputs[name.replace("past_", "present_", 1)] for name in self.cache}
        return outputs
