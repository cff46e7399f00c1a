"""Logits -> next token: greedy, or temperature with top-k and top-p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from innerq_export.errors import ConfigError


@dataclass(frozen=True)
class SamplingOptions:
    """`temperature` 0 is greedy. `top_k` 0 and `top_p` 1 keep every token. Equal `seed`, equal choices; None: any.

    Raises ConfigError for a value that cannot hold.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, holds, expected in (
            ("temperature", 0.0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            ("top_k", self.top_k >= 0, "0 (all tokens) or more"),
            ("top_p", 0.0 < self.top_p <= 1.0, "more than 0, at most 1"),
            ("seed", self.seed is None or self.seed >= 0, "0 or more"),
        ):
            if not holds:
                raise ConfigError(
                    f"sampling: {name} cannot be {getattr(self, name)}",
                    expected=expected,
                    got=getattr(self, name),
                    fix=f"--{name.replace('_', '-')} {expected}",
                )


class Sampler:
    """Chooses tokens for a whole batch. Every sequence draws from its own stream, so that batching changes nothing."""

    def __init__(self, options: SamplingOptions, batch: int):
        self.options = options
        root = np.random.SeedSequence(options.seed)
        self._streams = [np.random.default_rng(child) for child in root.spawn(batch)]

    def choose(self, logits_BV: np.ndarray) -> list[int]:
        """Return one token id per row of fp32 logits [B, V]."""
        if self.options.temperature == 0.0:
            return logits_BV.argmax(axis=-1).tolist()
        return [self._draw(row, stream) for row, stream in zip(logits_BV, self._streams, strict=True)]

    def _draw(self, logits_V: np.ndarray, stream: np.random.Generator) -> int:
        ids, chances = distribution(logits_V, self.options)
        return int(stream.choice(ids, p=chances))


def distribution(logits_V: np.ndarray, options: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids that may be drawn, likeliest first, and their chances (fp64, sum 1).

    Temperature first, then top-k, then the fewest tokens whose chances sum to top-p (Holtzman et al. 2019).
    """
    order = np.argsort(-logits_V, kind="stable")
    if options.top_k:
        order = order[: options.top_k]
    chances = _softmax(logits_V[order].astype(np.float64) / options.temperature)
    before = np.cumsum(chances) - chances
    kept = before < options.top_p
    return order[kept], chances[kept] / chances[kept].sum()


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
