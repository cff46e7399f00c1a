"""The engine's model.onnx in the very session that `innerq-export run` uses, with probes as extra outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from innerq_export.parity.observation import LayerSeen, Seen, Shipped
from innerq_export.parity.runners.base import EngineRunner
from innerq_export.parity.runners.probe import LayerProbe, find_probes
from innerq_export.runtime.session import OnnxRuntimeSession


class OnnxRuntimeRunner(EngineRunner):
    """Runs an engine folder, ready or not, in ONNX Runtime. Activation raises what opening a session raises.

    `shipped`: run every call again in a session without probes, since extra outputs may change what ONNX Runtime
    fuses; takes the memory of a second model. `in_place`: read weights where they are mapped (see `open_model`).
    """

    def __init__(self, folder: Path, layers: int, threads: int = 0, *, shipped: bool = True, in_place: bool = False):
        super().__init__(name="onnxruntime")
        self._folder, self._threads, self._shipped, self._in_place = folder, threads, shipped, in_place
        self._probes = find_probes(folder / "model.onnx", layers)

    def activate_impl(self) -> None:
        """Open the sessions."""
        names = [name for probe in self._probes for name in probe.names]
        self._session = self._opened(list(dict.fromkeys(names)))
        self._plain = self._opened([]) if self._shipped else None

    def deactivate_impl(self) -> None:
        """Let the sessions go."""
        super().deactivate_impl()
        del self._session, self._plain

    def open_sequences(self, batch: int) -> None:
        """Open `batch` empty sequences in both sessions."""
        self._session.reset(batch)
        if self._plain:
            self._plain.reset(batch)

    def step(self, ids_BS: Tensor, new_length_B: Tensor) -> Seen:
        """Run one call; the cache tensors are the sessions' own memory and change with the next call."""
        tokens = (ids_BS.numpy(), new_length_B.numpy())
        logits_BV = self._session.step(*tokens)
        layers = tuple(self._layer(index, probe) for index, probe in enumerate(self._probes))
        shipped = None
        if self._plain:
            plain_BV = torch.from_numpy(self._plain.step(*tokens))
            shipped = Shipped(plain_BV, tuple(_cache(self._plain, index) for index in range(len(layers))))
        return Seen(torch.from_numpy(logits_BV), layers, shipped)

    def _opened(self, extra: list[str]) -> OnnxRuntimeSession:
        return OnnxRuntimeSession(
            self._folder, allow_unready=True, threads=self._threads, extra_outputs=extra, in_place=self._in_place
        )

    def _layer(self, index: int, probe: LayerProbe) -> LayerSeen:
        extra = self._session.extra
        key, value, query, output = (torch.from_numpy(extra[name]) for name in probe.names)
        return LayerSeen(key, value, _cache(self._session, index), query, output, probe.scale)


def _cache(session: OnnxRuntimeSession, layer: int) -> Mapping[str, Tensor]:
    return {part: torch.from_numpy(array) for part, array in session.cache(layer).items()}
