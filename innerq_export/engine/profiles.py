"""Optimisation profiles: the ranges of batch, new tokens and cache capacity that an engine is built for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from innerq_export.artifacts import ModelShape
from innerq_export.errors import ConfigError
from innerq_export.spec import CacheConfig, blocks_of

DEFAULT_MAX_BATCH = 8
_TYPICAL_PROMPT = 512


@dataclass(frozen=True)
class Range:
    """Smallest, typical and largest value of one dimension. ConfigError unless 1 <= min <= opt <= max."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ConfigError(
                "impossible range in a profile",
                expected="1 <= min <= opt <= max",
                got=self,
                fix="mend the plan or the manifest",
            )


@dataclass(frozen=True)
class Profile:
    """One phase: `batch` sequences (B), `tokens` new tokens each (S), `blocks` of cache capacity each (NB)."""

    name: str
    batch: Range
    tokens: Range
    blocks: Range


def default_profiles(
    shape: ModelShape, cache: CacheConfig, max_batch: int, max_context: int, *, split: bool = True
) -> tuple[Profile, ...]:
    """Return the prefill profile (S up to `max_context`) and the decode profile (S = 1); unless `split`, one for both.

    Raises ConfigError when `max_context` exceeds what the model was trained for.
    """
    if not 2 <= max_context <= shape.max_positions:
        raise ConfigError(
            "the longest context is out of range",
            expected=f"2 to {shape.max_positions} (the model's max_position_embeddings)",
            got=max_context,
            fix=f"--max-context {min(2048, shape.max_positions)}",
        )
    most = capacity_blocks(cache, max_context)
    batch = Range(1, 1, max_batch)
    blocks = Range(1, max(1, most // 2), most)
    prompt = Range(1, min(_TYPICAL_PROMPT, max_context), max_context)
    if not split:
        return (Profile("any", batch, prompt, blocks),)
    return Profile("prefill", batch, prompt, blocks), Profile("decode", batch, Range(1, 1, 1), blocks)


def capacity_blocks(cache: CacheConfig, tokens: int) -> int:
    """Return NB, the block capacity that a sequence of `tokens` tokens needs: at least one."""
    return max(1, blocks_of(cache, tokens))


def largest(profiles: Sequence[Profile]) -> tuple[int, int, int]:
    """Return the largest batch, tokens and blocks over all profiles."""
    return (
        max(profile.batch.max for profile in profiles),
        max(profile.tokens.max for profile in profiles),
        max(profile.blocks.max for profile in profiles),
    )
