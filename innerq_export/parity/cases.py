"""What parity runs: ragged batches of prompts and teacher-forced decode steps, as lists of calls."""

from __future__ import annotations

from dataclasses import dataclass

PROMPTS = (1, 31, 32, 33, 127, 128, 129, 160, 200)
DECODE_STEPS = 300


@dataclass(frozen=True)
class Case:
    """One run from an empty cache. `calls[i][b]`: new tokens of sequence b in call i; 0 means that it rests."""

    name: str
    calls: tuple[tuple[int, ...], ...]

    @property
    def batch(self) -> int:
        """B."""
        return len(self.calls[0])

    @property
    def totals(self) -> tuple[int, ...]:
        """Tokens of each sequence at the end."""
        return tuple(sum(call[b] for call in self.calls) for b in range(self.batch))

    def within(self, limit: int) -> Case | None:
        """Return the calls up to where a sequence would exceed `limit` tokens; None if not even the first fits."""
        held, kept = [0] * self.batch, []
        for call in self.calls:
            held = [tokens + new for tokens, new in zip(held, call, strict=True)]
            if max(held) > limit:
                break
            kept.append(call)
        return Case(self.name, tuple(kept)) if kept else None


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

FULL = (
    *FAST,
    *(prompts_case(prompt, decode=DECODE_STEPS) for prompt in PROMPTS),
    *(prompts_case(a, b, decode=1) for a in PROMPTS for b in PROMPTS if a != b),
    prompts_case(1000, decode=1000),
)
"""FAST, every prompt followed by 300 decode steps, every ragged pair, and one run of 2,000 tokens."""
