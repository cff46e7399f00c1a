"""What every session does: a ragged batch of sequences, prompts in pieces, one token at a time, and all checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from innerq_export.engine.manifest import Manifest
from innerq_export.engine.profiles import capacity_blocks
from innerq_export.errors import ConfigError

FIRST_CAPACITY = 8
_PAD = 0


class Buffers(Protocol):
    """Memory of a cache with room for `capacity` blocks of each sequence, `nbytes` in all."""

    capacity: int

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` blocks; what the cache holds stays."""


class Session(ABC):
    """Runs an engine folder for `batch` sequences that may have different lengths. One thread at a time.

    The cache is updated in place and grows by doubling. A subclass makes its buffers in `_allocate` and runs one step
    in `_run`.
    `limit` is the most tokens that a sequence may hold and `limited_by` what sets it; `max_batch` is the most sequences
    (None: any number).
    """

    backend: str
    folder: Path
    manifest: Manifest
    limit: int
    limited_by: str = "max_position_embeddings"
    max_batch: int | None = None
    batch: int

    def reset(self, batch: int | None = None) -> None:
        """Forget all sequences; `batch` changes how many there are."""
        batch = self.batch if batch is None else batch
        if batch < 1:
            raise ConfigError("a session needs at least one sequence", expected=">= 1", got=batch, fix="batch=1")
        if self.max_batch is not None and batch > self.max_batch:
            raise ConfigError(
                "more sequences than the engine was built for",
                expected=f"at most {self.max_batch}",
                got=batch,
                fix=f"build with --max-batch {batch}, or run fewer at a time",
            )
        self.batch = batch
        self._length_B = np.zeros(self.batch, np.int32)
        self._buffers = self._allocate(min(FIRST_CAPACITY, capacity_blocks(self.manifest.cache, self.limit)))

    def close(self) -> None:  # noqa: B027
        """Give back what the end of the process alone would not; nothing for most sessions."""

    @property
    def length_B(self) -> np.ndarray:
        """Tokens that each sequence holds, int32 [B]; a copy."""
        return self._length_B.copy()

    @property
    def cache_bytes(self) -> int:
        """Bytes that the cache occupies now, spare capacity included."""
        return self._buffers.nbytes

    @property
    def warm_up_seconds(self) -> float:
        """Seconds spent so far within steps on what later ones need not do again: compiling, capturing."""
        return 0.0

    def prefill(self, prompts: Sequence[Sequence[int]], chunk: int | None = None) -> np.ndarray:
        """Add one prompt per sequence (an empty one adds nothing) and return the logits after each, fp32 [B, V].

        `chunk`: most tokens of a sequence per step, which bounds memory: attention scores take 4 bytes per query head,
        token of the step and token held. A chunk sees the earlier ones as the cache holds them (SPEC section 7).
        """
        lengths = [len(prompt) for prompt in prompts]
        longest = max([1, *lengths])
        size = longest if chunk is None else chunk
        if len(lengths) == self.batch:
            self._check_limit(self._length_B + lengths)
        logits_BV = self._add([prompt[:size] for prompt in prompts])
        for start in range(size, longest, size):
            pieces = [prompt[start : start + size] for prompt in prompts]
            going_on = np.array([bool(piece) for piece in pieces])[:, None]
            logits_BV = np.where(going_on, self._add(pieces), logits_BV)
        return logits_BV

    def decode(self, tokens: Sequence[int | None]) -> np.ndarray:
        """Add one token per sequence (None: this one rests) and return the logits, fp32 [B, V]."""
        return self._add([[] if token is None else [token] for token in tokens])

    def decode_greedy(self, tokens: Sequence[int | None]) -> list[int]:
        """As `decode`, and return each sequence's likeliest next token; what follows a None means nothing."""
        return self.decode(tokens).argmax(-1).tolist()

    def step(self, ids_BS: np.ndarray, new_length_B: np.ndarray) -> np.ndarray:
        """Add the first `new_length_B[b]` tokens of each row and return the logits after the last one, fp32 [B, V].

        Rows of new length 0 leave their sequence as it is; their logits mean nothing. Raises ConfigError for shapes
        that do not fit, unknown tokens, and sequences that outgrow the model; nothing has changed then.
        """
        feeds = self._feeds(ids_BS, new_length_B)
        logits = self._run(feeds)
        self._length_B = self._length_B + feeds["new_length"]
        return _last_of(logits, new_length_B)

    def _feeds(self, ids_BS: np.ndarray, new_length_B: np.ndarray) -> dict[str, np.ndarray]:
        """Check a step, make room for it, and return what a model is fed."""
        self._check(ids_BS, new_length_B)
        self._make_room(int((self._length_B + new_length_B).max()))
        return {
            "input_ids": ids_BS.astype(np.int64),
            "position_ids": self._length_B[:, None].astype(np.int64) + np.arange(ids_BS.shape[1]),
            "past_length": self._length_B,
            "new_length": new_length_B.astype(np.int32),
        }

    @abstractmethod
    def _allocate(self, capacity: int) -> Buffers:
        """Return `Buffers` of an empty cache of `batch` sequences with room for `capacity` blocks each."""

    @abstractmethod
    def _run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        """Run one step, which updates the cache, and return the output `logits`."""

    def _make_room(self, longest: int) -> None:
        needed = capacity_blocks(self.manifest.cache, longest)
        if needed > self._buffers.capacity:
            most = capacity_blocks(self.manifest.cache, self.limit)
            self._buffers.grow(min(max(needed, 2 * self._buffers.capacity), most))

    def _add(self, pieces: Sequence[Sequence[int]]) -> np.ndarray:
        """Add a piece of each sequence, padded on the right to the longest."""
        new_length_B = np.array([len(piece) for piece in pieces], np.int32)
        ids_BS = np.full((len(pieces), max(1, new_length_B.max(initial=0))), _PAD, np.int64)
        for row, piece in zip(ids_BS, pieces, strict=True):
            row[: len(piece)] = piece
        return self.step(ids_BS, new_length_B)

    def _check(self, ids_BS: np.ndarray, new_length_B: np.ndarray) -> None:
        if ids_BS.ndim != 2 or len(ids_BS) != self.batch or new_length_B.shape != (self.batch,):
            raise ConfigError(
                "tokens do not fit the session",
                expected=f"input_ids [{self.batch}, S] and new_length [{self.batch}]",
                got=f"{list(ids_BS.shape)} and {list(new_length_B.shape)}",
                fix="call reset(batch=...) first",
            )
        if new_length_B.min() < 0 or new_length_B.max() > ids_BS.shape[1]:
            raise ConfigError(
                "impossible new_length",
                expected=f"0 to {ids_BS.shape[1]}, the columns of input_ids",
                got=new_length_B.tolist(),
                fix="count a sequence's new tokens without its padding",
            )
        vocabulary = self.manifest.model.vocab
        if ids_BS.size and not 0 <= ids_BS.min() <= ids_BS.max() < vocabulary:
            raise ConfigError(
                "a token is outside the model's vocabulary",
                expected=f"0 to {vocabulary - 1}",
                got=f"{ids_BS.min()} to {ids_BS.max()}",
                fix="use the tokenizer of this model",
            )
        self._check_limit(self._length_B + new_length_B)

    def _check_limit(self, length_B: np.ndarray) -> None:
        longest = int(length_B.max())
        if longest > self.limit:
            raise ConfigError(
                "a sequence outgrows the model",
                expected=f"at most {self.limit} tokens ({self.limited_by})",
                got=longest,
                fix="shorten the prompt or lower --max-new-tokens",
            )


def _last_of(logits: np.ndarray, new_length_B: np.ndarray) -> np.ndarray:
    """Logits [B, V], [B, 1, V] (last token) or [B, S, V] (all tokens) -> fp32 [B, V] after each row's last token."""
    if logits.ndim == 3:
        row = np.arange(len(logits))
        last = np.maximum(new_length_B, 1) - 1 if logits.shape[1] > 1 else 0
        logits = logits[row, last]
    return logits.astype(np.float32)
