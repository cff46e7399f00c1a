"""The tokens that parity feeds: an English text through the model's own tokenizer, or seeded numbers without one."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

TEXT = """\
The harbour lay quiet before sunrise. A ferry had come in during the night, and its crew slept below while the rain drew
small circles on the water. Ana unlocked the office, put the kettle on and opened the book in which every arrival since
1931 was written down: the ship, the hour, the cargo, the name of whoever had been on duty. Most lines were dull. Coal,
timber, oranges; two pianos; once, in a bad winter, eleven reindeer and a man who claimed to be their uncle. She liked
the dull lines best, because they showed how much of the world goes well without anybody noticing. At half past six the
telephone rang. "We are four hours late," said a voice through the noise, "and we are bringing you something that is not
in the papers." She asked what it was. The line went dead. So she wrote the hour, left the rest of the row empty, and
walked out to the end of the pier, where the light still turned although the day had begun.

To weigh a column of numbers you need two things: a unit and the patience to use it every time. Suppose that a baker
sells 3 loaves at 2.40 each and 5 rolls at 0.35 each. The bill is 7.20 plus 1.75, that is 8.95. If the customer pays
with a note of 20, the change is 11.05. Nothing in this is difficult, and yet a till that is wrong by one cent in a
thousand sales will be found out only by somebody who adds up the whole year. Small errors hide behind large sums. They
come to light when the same thing is counted twice in different ways, by different people, who do not talk to each other
until both have finished.

def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)
"""
SEED = 20260222


def token_streams(folder: Path, vocab: int, count: int, length: int) -> Tensor:
    """Return int64 [count, length]: stream b starts b / count through the text of `folder`'s tokenizer.json.

    Text that is too short is repeated. Without a tokenizer, or with one that leaves the vocabulary, seeded random ids.
    """
    tokens = _text_tokens(folder, vocab)
    if tokens is None:
        return torch.randint(vocab, (count, length), generator=torch.Generator().manual_seed(SEED))
    starts = [b * len(tokens) // count for b in range(count)]
    repeated = tokens.repeat(2 + length // len(tokens))
    return torch.stack([repeated[start : start + length] for start in starts])


def _text_tokens(folder: Path, vocab: int) -> Tensor | None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(path)).encode(TEXT).ids
    return torch.tensor(ids) if ids and max(ids) < vocab else None
