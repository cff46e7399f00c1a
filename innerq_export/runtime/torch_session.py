"""An engine folder in torch, from the checkpoint it was built from: the kernels on a card, or anything on the CPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from innerq_export.artifacts import Checkpoint
from innerq_export.checkpoint import open_checkpoint
from innerq_export.checkpoint.key_norm import as_built
from innerq_export.engine.manifest import Manifest, rebuild_command
from innerq_export.errors import ConfigError, EnvironmentMismatchError, OutOfMemoryError, UserError
from innerq_export.runtime.base import Session
from innerq_export.runtime.checks import preflight
from innerq_export.runtime.torch_decoder import Decoder
from innerq_export.runtime.torch_options import TorchOptions
from innerq_export.runtime.torch_ranks import OtherRanks, Part, build_decoder

_SECONDS_TO_HEAR = 2
"""Until a rank's own words follow the error that its end makes of rank 0's sum."""


class TorchSession(Session):
    """Runs the checkpoint of an engine folder with the packed cache, on one card or several, or on the CPU.

    Weights come from the checkpoint, which must be the one that the folder was built from. Raises what `preflight`
    raises, UserError for a checkpoint that is gone or another one, and ConfigError for options that cannot hold.
    `close` ends the processes of the other ranks; so does the end of the session or of this process.
    """

    backend = "torch"

    def __init__(
        self, folder: Path, options: TorchOptions | None = None, *, batch: int = 1, allow_unready: bool = False,
        threads: int = 0,
    ):  # fmt: skip
        self.folder, options = Path(folder), options or TorchOptions()
        self.manifest = preflight(self.folder, self.backend, allow_unready=allow_unready)
        self.limit = self.manifest.model.max_positions
        device, dtype = _device(options.device), getattr(torch, options.dtype or self.manifest.dtype)
        if not threads and device == "cpu" and options.tp > 1:
            threads = max(1, torch.get_num_threads() // options.tp)
        if threads:
            torch.set_num_threads(threads)
        part = Part(
            checkpoint_of(self.manifest, self.folder), self.manifest.cache, dtype, device, options.tp,
            options.compiled, threads,
        )  # fmt: skip
        self._ranks = OtherRanks(part) if part.count > 1 else None
        self._decoder = _with_weights(part, self._ranks)
        self._end = weakref.finalize(self, self._ranks.close, self._decoder) if self._ranks else None
        self.reset(batch)

    @property
    def warm_up_seconds(self) -> float:
        """As `Session.warm_up_seconds`; again after each growth of the cache on a card."""
        return self._decoder.warm_up_seconds

    def close(self) -> None:
        """End the other ranks."""
        if self._end:
            self._end()

    def cache(self, layer: int) -> Mapping[str, Tensor]:
        """Return rank 0's live tensors of a layer by part; the next step changes them."""
        held = self._decoder.cache.layers[layer]
        return {"window": held.window_B2HkvWD, "key_norm": held.key_norm_BHkvD, "blocks": held.blocks}

    def decode_greedy(self, tokens: Sequence[int | None]) -> list[int]:
        """As `Session.decode_greedy`; the choice is made on the card, and no logits leave it."""
        ids_B1 = np.array([[token or 0] for token in tokens], np.int64).reshape(-1, 1)
        news_B = np.array([token is not None for token in tokens], np.int32)
        with self._answering():
            feeds = self._feeds(ids_B1, news_B)
            chosen = self._logits(feeds).argmax(-1).tolist()
            self._check_room()
        self._length_B = self._length_B + feeds["new_length"]
        return chosen

    def step(self, ids_BS: np.ndarray, new_length_B: np.ndarray) -> np.ndarray:
        """As `Session.step`. Raises UserError where a rank fails and OutOfMemoryError where the card is too small."""
        with self._answering():
            return super().step(ids_BS, new_length_B)

    def _allocate(self, capacity: int) -> _Room:
        with self._answering():
            if self._ranks:
                self._ranks.tell("allocate", self.batch, capacity)
            self._decoder.allocate(self.batch, capacity)
        return _Room(self._decoder, self._ranks)

    def _run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        logits_BV = self._logits(feeds).float().cpu().numpy()
        self._check_room()
        return logits_BV

    def _check_room(self) -> None:
        """The kernels drop tokens that do not fit rather than write elsewhere: never go on without them."""
        if self._ranks:
            self._ranks.check()
        if self._decoder.cache.overflowed:
            raise UserError("the cache had no room for a token", expected="room made before each step", fix="report it")

    def _logits(self, feeds: Mapping[str, np.ndarray]) -> Tensor:
        """Run a step on every rank and return rank 0's logits [B, V] on the device."""
        step = (feeds["input_ids"], feeds["past_length"], feeds["new_length"])
        if self._ranks:
            self._ranks.tell("step", *step)
        return self._decoder.step(*step)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Name what fails; where there are other ranks the session is over then, as they are at another step."""
        try:
            yield
        except RuntimeError as error:
            if self._ranks:
                self._ranks.check(_SECONDS_TO_HEAR)
                self._ranks.break_off()
            if isinstance(error, torch.OutOfMemoryError):
                raise OutOfMemoryError(
                    "the card is too small for this step", got=error, fix="fewer sequences"
                ) from error
            raise


class _Room:
    """The session's cache over all ranks, as `Session` grows it."""

    def __init__(self, decoder: Decoder, ranks: OtherRanks | None):
        self.capacity, self._decoder, self._ranks = decoder.cache.capacity, decoder, ranks

    @property
    def nbytes(self) -> int:
        """Bytes of all ranks' caches."""
        return self._decoder.cache.nbytes * (self._ranks.count if self._ranks else 1)

    def grow(self, capacity: int) -> None:
        """Make room on every rank."""
        if self._ranks:
            self._ranks.tell("grow", capacity)
        self._decoder.grow(capacity)
        self.capacity = capacity


def _with_weights(part: Part, ranks: OtherRanks | None) -> Decoder:
    """Return rank 0's decoder when every rank has its weights; ends the others where one has not."""
    decoder = None
    try:
        decoder = build_decoder(part)
        if ranks:
            ranks.wait()
    except BaseException as error:
        if ranks:
            ranks.close(decoder)
        if isinstance(error, torch.OutOfMemoryError):
            raise OutOfMemoryError("the card is too small for the weights", got=error, fix="--tp 2") from error
        raise
    return decoder


def checkpoint_of(manifest: Manifest, folder: Path) -> Checkpoint:
    """Return the checkpoint that the folder was built from. Raises UserError if it is gone or has changed."""
    fix = rebuild_command(manifest, folder)
    if manifest.source.endswith(".onnx"):
        raise ConfigError(
            "backend 'torch' needs a checkpoint", expected="an engine built from a Hugging Face checkpoint",
            got=manifest.source, fix=f"innerq-export run {folder} --backend onnxruntime",
        )  # fmt: skip
    checkpoint = as_built(open_checkpoint(manifest.source), manifest.cache, folder)
    if checkpoint.digest != manifest.source_digest:
        raise UserError(
            f"{manifest.source} is not the checkpoint that {folder} was built from",
            expected=f"digest {manifest.source_digest[:12]}", got=f"digest {checkpoint.digest[:12]}", fix=fix,
        )  # fmt: skip
    return checkpoint


def _device(name: str) -> str:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise EnvironmentMismatchError(
            "torch cannot use a card", expected="torch with CUDA, and a card",
            got=f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}", fix="--device cpu",
        )  # fmt: skip
    return ("cuda" if there else "cpu") if name == "auto" else name
