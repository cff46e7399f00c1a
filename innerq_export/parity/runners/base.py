"""What runs an engine for parity: a Polygraphy BaseRunner whose cache lives on from one call to the next."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

import numpy as np
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from torch import Tensor

from innerq_export.parity.observation import Seen


class EngineRunner(BaseRunner):
    """Every `infer` is one call: `input_ids` int64 [B, S], of row b the first `new_length`[b] tokens.

    It returns the `outputs` of what it has seen: `logits`, `attention_0`, `present_window_0`, ...; all may be
    overwritten by the next call. The sequences of `start`, or of the first call after activation, stay open until then.
    """

    seen: Seen | None = None
    _open = False

    def start(self, batch: int) -> None:
        """Forget everything and open `batch` empty sequences."""
        self.open_sequences(batch)
        self._open = True

    def open_sequences(self, batch: int) -> None:
        """Open `batch` empty sequences."""
        raise NotImplementedError

    def step(self, ids_BS: Tensor, new_length_B: Tensor) -> Seen:
        """Run one call."""
        raise NotImplementedError

    def call(self, ids_BS: Tensor, new_length_B: Tensor) -> Seen:
        """Run one call through `infer` and return what was seen."""
        self.infer({"input_ids": ids_BS.numpy(), "new_length": new_length_B.numpy()})
        assert self.seen is not None
        return self.seen

    def get_input_metadata_impl(self) -> TensorMetadata:
        """Return both inputs; -1 where a size varies."""
        return (
            TensorMetadata().add("input_ids", np.dtype(np.int64), [-1, -1]).add("new_length", np.dtype(np.int32), [-1])
        )

    def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        """Run one call."""
        start = time.perf_counter()
        ids_BS, new_B = (torch.from_numpy(feed_dict[name]) for name in ("input_ids", "new_length"))
        if not self._open:
            self.start(len(new_B))
        self.seen = self.step(ids_BS, new_B)
        self.inference_time = time.perf_counter() - start
        return self.seen.outputs()

    def deactivate_impl(self) -> None:
        """Close the sequences."""
        self.seen, self._open = None, False
