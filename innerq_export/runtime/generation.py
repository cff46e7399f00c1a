"""Prompts -> a stream of text events, with what it cost at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from innerq_export.errors import ConfigError
from innerq_export.runtime.base import Session
from innerq_export.runtime.events import EndEvent, Event, GenerateOptions, TextEvent, Usage
from innerq_export.runtime.sampler import Sampler
from innerq_export.runtime.text import Detokeniser, StopStrings, stop_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    options: GenerateOptions | None = None,
) -> Iterator[Event]:
    """Continue one prompt, or several in one batch.

    Yields text as it comes, one EndEvent per sequence, and Usage at the end. Resets `session`. Raises ConfigError for
    a prompt without tokens or one that leaves no room in the model's context.
    """
    options = options or GenerateOptions()
    texts = [prompts] if isinstance(prompts, str) else prompts
    ids = [_encode(tokenizer, text, session.limit) for text in texts]
    ends = frozenset() if options.ignore_eos else stop_tokens(session.folder)
    rows = [_Row(index, tokenizer, options, ends) for index in range(len(ids))]
    return _run(session, ids, rows, options)


def _run(session: Session, ids: list[list[int]], rows: list[_Row], options: GenerateOptions) -> Iterator[Event]:
    sampler = Sampler(options.sampling, len(rows))
    session.reset(len(rows))
    warm_before = session.warm_up_seconds
    logits_BV, prefill_seconds = _timed(session, session.prefill, ids, options.prefill_chunk)
    tokens = sampler.choose(logits_BV)
    decode_tokens, decode_seconds = 0, 0.0
    while True:
        for row, token, length in zip(rows, tokens, session.length_B, strict=True):
            yield from row.take(token, room=int(session.limit - length))
        if all(row.over for row in rows):
            break
        last = [None if row.over else row.tokens[-1] for row in rows]
        tokens, seconds = _timed(session, _next, session, sampler, last)
        decode_seconds += seconds
        decode_tokens += sum(not row.over for row in rows)
    warm_up = session.warm_up_seconds - warm_before
    yield Usage(sum(map(len, ids)), prefill_seconds, decode_tokens, decode_seconds, session.cache_bytes, warm_up)


def _next(session: Session, sampler: Sampler, last: list[int | None]) -> list[int]:
    """Add the last tokens and return the next ones; a session on a card need not hand out logits for greedy ones."""
    if sampler.options.temperature == 0.0:
        return session.decode_greedy(last)
    return sampler.choose(session.decode(last))


class _Row:
    """One sequence on its way: its tokens so far, its text so far, and whether it is over."""

    def __init__(self, index: int, tokenizer: Tokenizer, options: GenerateOptions, ends: frozenset[int]):
        self.index, self.options, self.ends = index, options, ends
        self.tokens: list[int] = []
        self.text = ""
        self.over = False
        self._pieces = Detokeniser(tokenizer)
        self._stops = StopStrings(options.stop)

    def take(self, token: int, room: int) -> Iterator[Event]:
        """Take the next token; `room` is how many more tokens the cache may hold."""
        if self.over:
            return
        self.tokens.append(token)
        if token in self.ends:
            yield from self._end("stop_token")
            return
        yield from self._show(self._stops.add(self._pieces.add(token)))
        if self._stops.stopped:
            yield from self._end("stop_string")
        elif len(self.tokens) == self.options.max_new_tokens:
            yield from self._end("length")
        elif room < 1:
            yield from self._end("context")

    def _end(self, reason: str) -> Iterator[Event]:
        self.over = True
        yield from self._show(self._stops.add(self._pieces.flush()) + self._stops.flush())
        yield EndEvent(self.index, reason, self.text, tuple(self.tokens))

    def _show(self, text: str) -> Iterator[Event]:
        if text:
            self.text += text
            yield TextEvent(self.index, text)


def _encode(tokenizer: Tokenizer, text: str, limit: int) -> list[int]:
    ids = tokenizer.encode(text).ids
    if not 1 <= len(ids) <= limit:
        raise ConfigError(
            "the prompt does not fit the model",
            expected=f"1 to {limit} tokens (max_position_embeddings)",
            got=f"{len(ids)} tokens",
            fix="write a prompt" if not ids else "shorten the prompt",
        )
    return ids


def _timed(session: Session, call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Call, and return the result and the seconds without the session's warm-up."""

    def now() -> float:
        return time.perf_counter() - session.warm_up_seconds

    start = now()
    result = call(*arguments)
    return result, now() - start
