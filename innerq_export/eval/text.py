"""Tokens to measure on: windows of a text, and needles in it, each drawn from a seed.

The built-in text is what scripts/fetch_text.py holds out: every twentieth 64 KiB of the King James Bible and of Jane
Austen's novels, all out of copyright. So the demo and evaluation models have not seen it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from innerq_export.checkpoint.demo import held_out_text
from innerq_export.errors import UserError
from innerq_export.eval.recall import Fact, draw_facts

MOST_CHARACTERS = 1 << 21
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Source:
    """A tokenised text: `ids_N` without special tokens, `start` what a sequence begins with (`<bos>` or nothing)."""

    name: str
    ids_N: Tensor
    start: tuple[int, ...]
    encode: Encode

    def windows(self, count: int, tokens: int, seed: int) -> Tensor:
        """Return int64 [count, tokens]: `start`, then text from a random place, each from its own share of the text."""
        length = tokens - len(self.start)
        if len(self.ids_N) < length:
            raise UserError(
                f"text '{self.name}' is too short",
                expected=f"at least {length} tokens",
                got=len(self.ids_N),
                fix="give a longer --text, or fewer --tokens",
            )
        generator = np.random.default_rng([seed, 1])
        places = (len(self.ids_N) - length) * (np.arange(count) + generator.random(count)) / count
        rows = [self.ids_N[int(place) : int(place) + length] for place in places]
        return torch.stack([torch.cat([torch.tensor(self.start, dtype=torch.int64), row]) for row in rows])


@dataclass(frozen=True)
class Needle:
    """A prompt that states a fact somewhere, and `tail`: the question and then `answer` tokens of its answer."""

    prompt: list[int]
    tail: list[int]
    answer: int


def needles(source: Source, count: int, tokens: int, depth: float, seed: int) -> list[Needle]:
    """Return `count` needles of `tokens` tokens each, the fact at `depth` (0 start, 1 end) of its text."""
    generator = np.random.default_rng([seed, 2, tokens, round(1000 * depth)])
    return [_needle(source, fact, tokens, depth, generator) for fact in draw_facts(count, generator)]


def _needle(source: Source, fact: Fact, tokens: int, depth: float, generator: np.random.Generator) -> Needle:
    told = source.encode(fact.line.decode())
    tail = source.encode((fact.question + fact.answer).decode())
    asked = _common(tail, source.encode(fact.question.decode()))
    room = tokens - len(source.start) - len(told) - len(tail)
    if not 0 < room <= len(source.ids_N):
        raise UserError(
            f"needles of {tokens} tokens do not fit",
            expected=f"between {tokens - room + 1} and {tokens - room + len(source.ids_N)} tokens",
            got=tokens,
            fix="choose other --needle-lengths or a longer --text",
        )
    place = int(generator.integers(len(source.ids_N) - room + 1))
    text, before = source.ids_N[place : place + room].tolist(), round(depth * room)
    return Needle([*source.start, *text[:before], *told, *text[before:]], tail, len(tail) - asked)


def _common(first: list[int], second: list[int]) -> int:
    """Return how many tokens both begin with."""
    pairs = list(zip(first, second, strict=False))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


def open_source(folder: Path, text: Path | None) -> Source:
    """Return the text of a file (or the built-in one) through the tokenizer of a checkpoint's folder. UserError."""
    from innerq_export.runtime.text import load_tokenizer

    tokenizer = load_tokenizer(folder)

    def encode(part: str) -> list[int]:
        return tokenizer.encode(part, add_special_tokens=False).ids

    content = _content(text)
    start = tuple(tokenizer.encode("").ids)[:1]
    return Source(text.name if text else "held-out prose", torch.tensor(encode(content)), start, encode)


def _content(text: Path | None) -> str:
    try:
        data = held_out_text() if text is None else text.read_bytes()
        return data[:MOST_CHARACTERS].decode("utf-8", errors="ignore")
    except OSError as error:
        raise UserError(f"text {text} cannot be read", got=error.strerror, fix="give a UTF-8 text file") from error
