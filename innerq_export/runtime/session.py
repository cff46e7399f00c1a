"""An engine folder in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from innerq_export.runtime.base import Session
from innerq_export.runtime.buffers import CacheBuffers
from innerq_export.runtime.checks import preflight
from innerq_export.runtime.model_file import open_model


class OnnxRuntimeSession(Session):
    """Runs `model.onnx` of an engine folder.

    `extra_outputs` names values of the graph that every step also returns in `extra`. `allow_unready` loads an engine
    that parity has not passed. `in_place`: see `open_model`. Raises what `preflight` raises.
    """

    backend = "onnxruntime"
    _buffers: CacheBuffers

    def __init__(
        self,
        folder: Path,
        *,
        batch: int = 1,
        allow_unready: bool = False,
        threads: int = 0,
        extra_outputs: Sequence[str] = (),
        in_place: bool = False,
    ):
        self.folder = Path(folder)
        self.manifest = preflight(self.folder, allow_unready=allow_unready)
        self.limit = self.manifest.model.max_positions
        self._model = open_model(self.folder / "model.onnx", extra_outputs, threads, in_place=in_place)
        self._extra_names = tuple(extra_outputs)
        self.extra: Mapping[str, np.ndarray] = {}
        self.reset(batch)

    def cache(self, layer: int) -> Mapping[str, np.ndarray]:
        """Return a layer's live cache arrays by part, e.g. 'window' [B, 2, Hkv, W, D]; the next step changes them."""
        return self._buffers.layer(layer)

    def _allocate(self, capacity: int) -> CacheBuffers:
        return CacheBuffers(self._model.get_inputs(), self.batch, capacity)

    def _run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        binding = self._model.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        wanted = ("logits", *self._extra_names)
        for name in wanted:
            binding.bind_output(name)
        self._buffers.bind(binding)
        self._model.run_with_iobinding(binding)
        outputs = {name: value.numpy() for name, value in zip(wanted, binding.get_outputs(), strict=False)}
        self.extra = {name: outputs[name] for name in self._extra_names}
        return outputs["logits"]
