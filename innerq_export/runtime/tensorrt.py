"""An engine folder in TensorRT, with the plugin, or in TensorRT-RTX: the cache stays on the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from innerq_export.engine.backend_record import record_of
from innerq_export.engine.profiles import Profile
from innerq_export.errors import ConfigError, OutOfMemoryError, UserError
from innerq_export.runtime.base import Session
from innerq_export.runtime.checks import check_card, preflight
from innerq_export.runtime.cuda_stream import CudaStream
from innerq_export.runtime.device_cache import DeviceCache
from innerq_export.runtime.plan import Plan
from innerq_export.runtime.plan_weights import weights_on


class TensorRtSession(Session):
    """Runs `model.engine` of an engine folder; `backend` is 'tensorrt' or 'tensorrt-rtx'.

    Before the plan is touched, folder, versions, plugin and card are checked: raises what `preflight` and `check_card`
    raise. A plan of TensorRT updates the cache in place; for TensorRT-RTX, which has no such thing, the cache is there
    twice. Limits are those of the build: --max-batch and --max-context.
    """

    _buffers: DeviceCache
    limited_by = "--max-context of the build"

    def __init__(self, folder: Path, *, backend: str = "tensorrt", batch: int = 1, allow_unready: bool = False):
        self.folder, self.backend = Path(folder), backend
        self.manifest = preflight(self.folder, backend, allow_unready=allow_unready)
        check_card(self.manifest, self.folder, backend)
        record = record_of(self.manifest, backend, self.folder)
        self.limit = min(self.manifest.max_context, self.manifest.model.max_positions)
        self.max_batch = self.manifest.max_batch
        self._profiles = record.profiles
        self._stream = CudaStream()
        with self._told():
            self._plan = Plan(self.folder, record, backend)
            if record.weights:
                tensors = self._plan.tensors.values()
                self._plan.hold(weights_on(self._stream.device, self.folder / record.weights, tensors))
        self.reset(batch)

    def cache(self, layer: int) -> Mapping[str, Tensor]:
        """Return a layer's live tensors by part, on the card; the next step changes them."""
        return self._buffers.layer(layer)

    def _allocate(self, capacity: int) -> DeviceCache:
        aliases = set(self.manifest.aliases)
        with self._told():
            return DeviceCache(self._plan.tensors.values(), aliases, self.batch, capacity, self._stream.device)

    def _make_room(self, longest: int) -> None:
        with self._told():
            super()._make_room(longest)

    def _run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        with self._told():
            self._plan.use_profile(profile_for(self._profiles, *feeds["input_ids"].shape), self._stream.handle)
            fed = {name: self._on_card(name, array) for name, array in feeds.items()}
            for name, tensor in fed.items():
                self._plan.bind_input(name, tensor)
            self._buffers.bind(self._plan)
            dtype = getattr(torch, self._plan.tensors["logits"].dtype)
            logits = torch.empty(self._plan.shape_of("logits"), dtype=dtype, device=self._stream.device)
            self._plan.bind_output("logits", logits)
            self._plan.run(self._stream.handle)
            result = logits.float().cpu().numpy()
        self._buffers.advance()
        return result

    def _on_card(self, name: str, array: np.ndarray) -> Tensor:
        dtype = getattr(torch, self._plan.tensors[name].dtype)
        return torch.from_numpy(array).to(self._stream.device, dtype)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Work on the session's stream; what torch and CUDA raise becomes an error that says what to do."""
        try:
            with self._stream.scope():
                yield
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                "the card has too little memory for the cache", got=error, fix="fewer sequences, or shorter ones"
            ) from error
        except RuntimeError as error:
            raise UserError(
                f"CUDA failed under {self.folder}", got=error, fix=f"innerq-export doctor {self.folder}"
            ) from error


def profile_for(profiles: Sequence[Profile], batch: int, tokens: int) -> int:
    """Return the index of the tightest profile for `batch` sequences of `tokens` new tokens; ConfigError if none is."""
    fitting = [
        (profile.tokens.max, index)
        for index, profile in enumerate(profiles)
        if profile.batch.min <= batch <= profile.batch.max and profile.tokens.min <= tokens <= profile.tokens.max
    ]
    if not fitting:
        raise ConfigError(
            "no optimisation profile of the engine takes this step",
            expected="; ".join(f"{p.name}: batch up to {p.batch.max}, tokens up to {p.tokens.max}" for p in profiles),
            got=f"batch {batch}, tokens {tokens}",
            fix="build with a larger --max-batch or --max-context",
        )
    return min(fitting)[1]
