"""Token ids -> text as it grows: whole characters only, and nothing that may still become a stop string."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from innerq_export.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BROKEN = "\ufffd"


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of an engine folder (tokenizer.json). UserError when there is none or it is broken."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no tokenizer",
            expected="tokenizer.json",
            fix="put the model's tokenizer.json beside its config.json and build again, or pass token ids",
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:
        raise UserError(f"{path} cannot be read as a tokenizer", got=error, fix="build the engine again") from error


def stop_tokens(folder: Path) -> frozenset[int]:
    """Return the ids that end a text: `eos_token_id` of generation_config.json, else of config.json.

    Raises UserError for a file that is broken or holds something else there.
    """
    for name in ("generation_config.json", "config.json"):
        found = _end_tokens(folder / name)
        if found:
            return found
    return frozenset()


def _end_tokens(path: Path) -> frozenset[int]:
    if not path.is_file():
        return frozenset()
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is no JSON object", got=error, fix="mend it in the checkpoint, build again") from error
    ids = [] if found is None else found if isinstance(found, list) else [found]
    if not all(type(token) is int for token in ids):
        raise UserError(f"{path}: eos_token_id", expected="a token id or a list of them", got=found, fix="mend it")
    return frozenset(ids)


class Detokeniser:
    """Turns one sequence's tokens into text, piece by piece; the pieces joined are the text decoded at once.

    A piece ends where a character ends: bytes of an unfinished UTF-8 character wait for the next token.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0
        self._done = 0

    def add(self, token: int) -> str:
        """Return the text that `token` completes, possibly none."""
        self._ids.append(token)
        text = self._grown()
        if not text or text.endswith(_BROKEN):
            return ""
        self._context, self._done = self._done, len(self._ids)
        return text

    def flush(self) -> str:
        """Return what is left at the end, an unfinished character as U+FFFD."""
        text = self._grown()
        self._context = self._done = len(self._ids)
        return text

    def _grown(self) -> str:
        """Decode from a few tokens back, since a tokenizer may join neighbours with a space."""
        before = self._tokenizer.decode(self._ids[self._context : self._done])
        return self._tokenizer.decode(self._ids[self._context :])[len(before) :]


@dataclass
class StopStrings:
    """Passes text on until one of `stops` appears in it; the stop itself and all behind it are dropped."""

    stops: Sequence[str] = ()
    stopped: bool = False
    _held: str = ""

    def add(self, text: str) -> str:
        """Return what can be shown: all text that is not, and cannot become, part of a stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            return self._release(min(found), keep="")
        keep = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        return self._release(len(self._held) - keep, keep=self._held[len(self._held) - keep :])

    def flush(self) -> str:
        """Return what was held back: the text ended before it became a stop string."""
        return self._release(len(self._held), keep="")

    def _release(self, count: int, keep: str) -> str:
        shown, self._held = self._held[:count], keep
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
