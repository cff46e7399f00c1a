"""The engine's model.onnx in the very session that `innerq-export run` uses, with probes as extra outputs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from innerq_export.parity.observation import LayerSeen, Seen
from innerq_export.parity.runners.probe import LayerProbe, find_probes
from innerq_export.runtime.session import OnnxRuntimeSession


class OnnxRuntimeRunner:
    """Runs an engine folder, ready or not, in ONNX Runtime."""

    name = "onnxruntime"

    def __init__(self, folder: Path, layers: int):
        self._probes = find_probes(folder / "model.onnx", layers)
        names = [name for probe in self._probes for name in probe.names]
        self._session = OnnxRuntimeSession(folder, allow_unready=True, extra_outputs=list(dict.fromkeys(names)))

    def start(self, batch: int) -> None:
        """Open `batch` empty sequences."""
        self._session.reset(batch)

    def step(self, ids_BS: Tensor, new_length_B: Tensor) -> Seen:
        """Run one call; the cache tensors are the session's own memory and change with the next call."""
        logits_BV = self._session.step(ids_BS.numpy(), new_length_B.numpy())
        layers = tuple(self._layer(index, probe) for index, probe in enumerate(self._probes))
        return Seen(torch.from_numpy(logits_BV), layers)

    def _layer(self, index: int, probe: LayerProbe) -> LayerSeen:
        extra = self._session.extra
        key, value, query, output = (torch.from_numpy(extra[name]) for name in probe.names)
        cache = {part: torch.from_numpy(array) for part, array in self._session.cache(index).items()}
        return LayerSeen(key, value, cache, query, output, probe.scale)
