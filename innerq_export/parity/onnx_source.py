"""The decoder that a user brought as ONNX, before its rewrite, in ONNX Runtime: what an engine says unquantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from innerq_export.errors import UserError

_PAST_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxSource:
    """A decoder .onnx: `input_ids`, `position_ids`, maybe `attention_mask`, all [B, S], to `logits` [B, S, V].

    A past of its own, [B, Hkv, T, D] with T open, is given empty.
    """

    def __init__(self, path: Path, threads: int = 0):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self._path = path

    def unquantised(self, ids_T: Tensor) -> Tensor:
        """Return the logits [T, V] of one sequence, fp32. UserError if the model has inputs that nobody can guess."""
        ids_1T = ids_T.numpy()[None]
        known = {
            "input_ids": ids_1T,
            "position_ids": np.arange(len(ids_T), dtype=np.int64)[None],
            "attention_mask": np.ones_like(ids_1T),
        }
        known |= {node.name: _no_past(node) for node in self._session.get_inputs() if _is_past(node)}
        wanted = [node.name for node in self._session.get_inputs()]
        if unknown := [name for name in wanted if name not in known]:
            raise UserError(
                f"{self._path.name} cannot be run for parity",
                expected=", ".join(known),
                got=", ".join(unknown),
                fix="export it again without them, or build from the checkpoint's folder",
            )
        feeds = {name: known[name] for name in wanted}
        (logits_1TV,) = self._session.run(["logits"], feeds)
        return torch.from_numpy(logits_1TV[0].astype(np.float32))


def _is_past(node: Any) -> bool:
    """Whether an input holds keys or values of earlier tokens: fp, rank 4, heads and channels fixed, tokens open."""
    fixed = [isinstance(size, int) for size in node.shape]
    return node.type in _PAST_DTYPES and len(fixed) == 4 and fixed[1:] == [True, False, True]


def _no_past(node: Any) -> np.ndarray:
    return np.zeros((1, node.shape[1], 0, node.shape[3]), _PAST_DTYPES[node.type])
