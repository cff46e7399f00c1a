"""What parity runs: ragged batches of prompts and teacher-forced decode steps, as lists of calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from innerq_export.engine.manifest import Manifest

PROMPTS = (1, 31, 32, 33, 127, 128, 129, 160, 200)
DECODE_STEPS = 300


@dataclass(frozen=True)
class Case:
    """One run from an empty cache. `calls[i][b]`: new tokens of sequence b in call i; 0 means that it rests.

    `free`: behind the prompt, from the first call of one token on, they are the engine's own most likely ones.
    """

    name: str
    calls: tuple[tuple[int, ...], ...]
    free: bool = False

    @property
    def batch(self) -> int:
        """B."""
        return len(self.calls[0])

    @property
    def totals(self) -> tuple[int, ...]:
        """Tokens of each sequence at the end."""
        return tuple(sum(call[b] for call in self.calls) for b in range(self.batch))

    def is_free(self, index: int) -> bool:
        """Whether the tokens of call `index` are the engine's own."""
        return self.free and index > 0 and max(self.calls[index]) == 1

    def within(self, limit: int) -> Case | None:
        """Return the calls up to where a sequence would exceed `limit` tokens; None if not even the first fits."""
        held, kept = [0] * self.batch, []
        for call in self.calls:
            held = [tokens + new for tokens, new in zip(held, call, strict=True)]
            if max(held) > limit:
                break
            kept.append(call)
        return Case(self.name, tuple(kept), self.free) if kept else None


def prompts_case(*prompts: int, decode: int) -> Case:
    """Return one prefill of these prompts, then `decode` steps of one token for every sequence."""
    name = f"prompt {' and '.join(map(str, prompts))}, {decode} decode steps"
    return Case(name, (prompts, *[(1,) * len(prompts)] * decode))


FAST = (
    *(prompts_case(prompt, decode=2) for prompt in PROMPTS),
    *(prompts_case(a, b, decode=2) for a, b in zip(PROMPTS[:4], PROMPTS[:-5:-1], strict=True)),
    Case("chunked and ragged", ((50, 7), (0, 121), (64, 1), (1, 0), (33, 32), (1, 1))),
    prompts_case(33, decode=DECODE_STEPS),
    prompts_case(127, 1, decode=DECODE_STEPS),
)
"""Every boundary of the default windows, batch 1 and 2, and twice 300 decode steps: what `build` runs."""

LONG, CHUNK = 8704, 512


def free_case(prompt: int, tokens: int, chunk: int = 0) -> Case:
    """Return a prompt from the text, in chunks if `chunk` is given, and then `tokens` of the engine's own."""
    chunks = ((chunk,),) * (prompt // chunk) if chunk else ((prompt,),)
    return Case(f"prompt {prompt}, {tokens} tokens of its own", (*chunks, *[(1,)] * tokens), free=True)


FAST = (*FAST, free_case(110, 60))

FULL = (
    *FAST,
    *(prompts_case(prompt, decode=DECODE_STEPS) for prompt in PROMPTS),
    *(prompts_case(a, b, decode=1) for a in PROMPTS for b in PROMPTS if a != b),
    prompts_case(1000, decode=1000),
    Case(f"{LONG} tokens of text in chunks of {CHUNK}", ((CHUNK,),) * (LONG // CHUNK)),
    free_case(1000, 1000),
    free_case(LONG - CHUNK, 256, CHUNK),
)
"""FAST, every prompt before 300 decode steps, every ragged pair, 2,000 tokens one by one, long texts, free runs."""

LARGE_FAST = (
    prompts_case(1, decode=1),
    prompts_case(33, 161, decode=1),
    Case("chunked and ragged", ((50, 7), (0, 121), (64, 1), (1, 0), (33, 32), (1, 1))),
    prompts_case(158, decode=4),
    free_case(20, 4),
)
LARGE_FULL = (
    *LARGE_FAST,
    *(prompts_case(prompt, decode=1) for prompt in PROMPTS),
    prompts_case(127, 1, decode=40),
    Case("2,048 tokens of text in chunks of 512", ((CHUNK,),) * 4),
)
"""For models whose one step takes seconds in fp32 PyTorch: every boundary once."""
LARGE_BYTES = 600 << 20
"""Of an engine folder with all its files."""


def is_large(manifest: Manifest) -> bool:
    """Whether an engine folder is so large that parity leaves weights in their files and runs the smaller sets."""
    return sum(entry.bytes for entry in manifest.files.values()) > LARGE_BYTES


def cases_for(extent: str, weight_bytes: int) -> tuple[Case, ...]:
    """Return the cases of extent 'fast' or 'full' for a model of this size: minutes, whatever the size."""
    small, large = {"fast": (FAST, LARGE_FAST), "full": (FULL, LARGE_FULL)}[extent]
    return large if weight_bytes > LARGE_BYTES else small
