"""The recall task: facts `[key: value]` of made-up words stand somewhere in the text and are asked for later.

Key and value are three syllables each (70^3 words), so no value can be guessed: a model that completes `[key:` has read
it from its context. The demo and evaluation models learn the task (scripts/train_demo_model.py), other models may do it
unlearned. Everything is bytes, drawn from the numpy generator that is handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SYLLABLES = tuple(consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou")


@dataclass(frozen=True)
class Fact:
    """What is stated, and asked for: a key and a value of six letters."""

    key: str
    value: str

    @property
    def line(self) -> bytes:
        """The statement, a line of its own."""
        return f"\n[{self.key}: {self.value}]\n".encode()

    @property
    def question(self) -> bytes:
        """What a prompt ends with."""
        return f"\n[{self.key}:".encode()

    @property
    def answer(self) -> bytes:
        """What must follow the question."""
        return f" {self.value}]".encode()


LINE_BYTES = len(Fact("babaka", "dodoka").line)


def draw_facts(count: int, generator: np.random.Generator) -> list[Fact]:
    """Return `count` facts of different keys."""
    keys: dict[str, str] = {}
    while len(keys) < count:
        keys[_word(generator)] = _word(generator)
    return [Fact(key, value) for key, value in keys.items()]


def scatter_facts(text: np.ndarray, facts: list[Fact], lines: int, generator: np.random.Generator) -> None:
    """Overwrite `text`, uint8 [N], in place with `lines` statements of `facts`, in random order at random places.

    Each fact's first line tells it, later ones ask for it. Raises ValueError when so many lines do not fit.
    """
    cells = len(text) // LINE_BYTES
    if lines > cells:
        raise ValueError(f"{lines} facts do not fit into {len(text)} bytes: at most {cells}")
    for cell in generator.choice(cells, lines, replace=False):
        fact = facts[generator.integers(len(facts))]
        text[cell * LINE_BYTES : (cell + 1) * LINE_BYTES] = np.frombuffer(fact.line, np.uint8)


def scatter_pairs(
    text: np.ndarray, facts: list[Fact], apart: bool, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Overwrite `text`, uint8 [N], in place with two statements of each fact: one tells it, a later one asks for it.

    Lines stand anywhere. `apart`: all are told before any is asked for, so that distances are long; else in random
    order. Returns where each fact is told and asked for, [facts] each. Raises ValueError when they do not fit.
    """
    count = len(facts)
    free = len(text) - 2 * count * LINE_BYTES
    if free < 0:
        raise ValueError(
            f"{count} facts do not fit twice into {len(text)} bytes: at most {len(text) // LINE_BYTES // 2}"
        )
    start_L = np.sort(generator.integers(0, free + 1, 2 * count)) + LINE_BYTES * np.arange(2 * count)
    if apart:
        told, asked = start_L[:count], start_L[count:][generator.permutation(count)]
    else:
        told, asked = np.sort(start_L[generator.permutation(2 * count)].reshape(2, count), axis=0)
    for starts in (told, asked):
        for start, fact in zip(starts, facts, strict=True):
            text[start : start + LINE_BYTES] = np.frombuffer(fact.line, np.uint8)
    return told, asked


def needle_prompt(text: bytes, length: int, depth: float, fact: Fact) -> bytes:
    """Return `length` bytes: the beginning of `text`, in it `fact` told at `depth` (0 start, 1 end); then its question.

    Raises ValueError when `text` is too short or `length` leaves no room.
    """
    room = length - len(fact.line) - len(fact.question)
    if not 0 <= room <= len(text):
        raise ValueError(f"a prompt of {length} bytes needs between 0 and {len(text)} bytes of text, got {room}")
    before = round(depth * room)
    return text[:before] + fact.line + text[before:room] + fact.question


def _word(generator: np.random.Generator) -> str:
    return "".join(SYLLABLES[part] for part in generator.integers(len(SYLLABLES), size=3))
