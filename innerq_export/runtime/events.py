"""What `generate` is told and what it yields."""

from __future__ import annotations

from dataclasses import dataclass, field

from innerq_export.errors import ConfigError
from innerq_export.runtime.sampler import SamplingOptions


@dataclass(frozen=True)
class GenerateOptions:
    """What to generate. Raises ConfigError for a value that cannot hold.

    `max_new_tokens`: per sequence; `stop`: strings that end a text and are not shown; `ignore_eos`: run on past the
    model's stop tokens; `prefill_chunk`: most prompt tokens per step (see `Session.prefill`).
    """

    max_new_tokens: int = 128
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    prefill_chunk: int = 2048

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(
                "nothing to generate", expected="1 or more", got=self.max_new_tokens, fix="--max-new-tokens 128"
            )
        if self.prefill_chunk < 1:
            raise ConfigError(
                "impossible prefill_chunk", expected="1 or more", got=self.prefill_chunk, fix="leave it at 2048"
            )
        if "" in self.stop:
            raise ConfigError("a stop string is empty", expected="at least one character", fix="leave it out")


@dataclass(frozen=True)
class TextEvent:
    """A piece of the text of sequence `sequence`, whole characters only."""

    sequence: int
    text: str


@dataclass(frozen=True)
class EndEvent:
    """Sequence `sequence` is over: its whole new text and tokens.

    `reason`: 'stop_token', 'stop_string', 'length' (max_new_tokens) or 'context' (the model's limit).
    """

    sequence: int
    reason: str
    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Usage:
    """The last event: tokens and seconds of both phases over all sequences, and bytes of the cache at the end.

    `decode_tokens` leaves out the first token of each sequence, which prefill gives. `warm_up_seconds`, which is in no
    phase: compiling layers and capturing graphs on the way.
    """

    prompt_tokens: int
    prefill_seconds: float
    decode_tokens: int
    decode_seconds: float
    cache_bytes: int
    warm_up_seconds: float = 0.0

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / max(self.prefill_seconds, 1e-9)

    @property
    def decode_tokens_per_second(self) -> float:
        """New tokens per second, all sequences together."""
        return self.decode_tokens / max(self.decode_seconds, 1e-9)


Event = TextEvent | EndEvent | Usage
