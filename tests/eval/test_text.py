"""Windows and needles: from the seed, of the length asked for, with the fact where it should be."""

from __future__ import annotations

import re

import pytest
import torch

from innerq_export.checkpoint.demo import held_out_text
from innerq_export.errors import UserError
from innerq_export.eval.measure import recall_figures
from innerq_export.eval.model import Decoded
from innerq_export.eval.plans import Sizes, full_precision
from innerq_export.eval.text import Source, needles, open_source


def test_windows_come_from_the_seed_and_start_with_bos(source):
    first, again, other = source.windows(3, 100, 0), source.windows(3, 100, 0), source.windows(3, 100, 1)
    assert first.shape == (3, 100)
    assert (first[:, 0] == 256).all()
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert bytes(first[1, 1:].tolist()) in held_out_text()


def test_a_text_of_ones_own_and_one_that_is_too_short(tiny_checkpoint, tmp_path):
    (tmp_path / "own.txt").write_text("abc" * 40)
    own = open_source(tiny_checkpoint.folder, tmp_path / "own.txt")
    assert own.windows(1, 121, 0).tolist() == [[256, *(b"abc" * 40)]]
    with pytest.raises(UserError, match=r"own.txt' is too short"):
        own.windows(1, 122, 0)
    with pytest.raises(UserError, match="cannot be read"):
        open_source(tiny_checkpoint.folder, tmp_path / "none.txt")


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_needle_states_its_fact_at_its_depth_and_asks_for_it(source, depth):
    for needle in needles(source, 3, 300, depth, 0):
        assert len(needle.prompt) + len(needle.tail) == 300
        prompt, tail = bytes(needle.prompt[1:]), bytes(needle.tail)
        told = re.search(rb"\n(\[[a-z]{6}: [a-z]{6}\])\n", prompt)
        assert tail == b"\n" + told[1]
        assert tail[-needle.answer :] == told[1][7:][-needle.answer :]
        assert needle.answer == len(b" kitare]")
        assert abs(told.start() / (len(prompt) - len(told[0])) - depth) < 0.01


def test_needles_that_do_not_fit_are_refused(source):
    with pytest.raises(UserError, match="needles of 20 tokens"):
        needles(source, 1, 20, 0.5, 0)


class Rigged:
    """A decoder that answers every token right, but for `wrong` places from the end."""

    layers, device = 1, torch.device("cpu")

    def __init__(self, wrong=()):
        self.wrong = wrong

    def read(self, ids):
        return None

    def decode(self, prompt, ids_BN, schemes):
        logits = torch.nn.functional.one_hot(ids_BN.roll(-1, 1), 264).float()
        for place in self.wrong:
            logits[:, -1 - place] = 0.0
        return Decoded(logits, [])


@pytest.mark.parametrize(("wrong", "recall"), [((), 1.0), ((1,), 0.0), ((8,), 0.0), ((9, 12), 1.0)])
def test_recall_wants_every_token_of_the_answer_and_no_other(source, wrong, recall):
    """The logits 1 to 8 places before the last predict the answer's 8 tokens; earlier ones are the question."""
    cell = needles(source, 2, 200, 0.5, 0)
    plan = full_precision(Sizes(1, 64))
    [(_, figures)] = recall_figures(Rigged(wrong), [plan], cell, 200, 0.5, lambda name: None)
    assert figures.recall == recall


def test_a_tokenizer_that_merges_over_the_colon_loses_no_token():
    """Where question and answer share a token, it belongs to the answer."""

    def encode(text: str) -> list[int]:
        pieces = re.findall(r": [a-z]|.", text, re.S)
        return [sum(map(ord, piece)) for piece in pieces]

    merging = Source("merging", torch.arange(1000), (), encode)
    needle = needles(merging, 1, 100, 0.5, 0)[0]
    assert needle.answer == len("kitare]")
    assert len(needle.prompt) + len(needle.tail) == 100
