"""Sampling: the distribution is the one asked for, and equal seeds choose alike."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.errors import ConfigError
from innerq_export.runtime import Sampler, SamplingOptions
from innerq_export.runtime.sampler import distribution

LOGITS = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))
logits = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40).map(lambda row: np.array(row, np.float32))


def test_greedy_takes_the_largest():
    rows = np.array([[0, 2, 1], [5, 2, 1]], np.float32)
    assert Sampler(SamplingOptions(), 2).choose(rows) == [1, 0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (SamplingOptions(temperature=1.0), {1: 0.5, 3: 0.25, 2: 0.15, 0: 0.1}),
        (SamplingOptions(temperature=1.0, top_k=2), {1: 2 / 3, 3: 1 / 3}),
        (SamplingOptions(temperature=1.0, top_p=0.5), {1: 1.0}),
        (SamplingOptions(temperature=1.0, top_p=0.51), {1: 2 / 3, 3: 1 / 3}),
        (SamplingOptions(temperature=1.0, top_k=3, top_p=0.8), {1: 2 / 3, 3: 1 / 3}),
        (SamplingOptions(temperature=0.5, top_k=2), {1: 0.8, 3: 0.2}),
    ],
)
def test_the_distribution(options, expected):
    ids, chances = distribution(LOGITS, options)
    assert ids.tolist() == list(expected)
    assert chances == pytest.approx(list(expected.values()), abs=1e-6)


@given(logits, st.floats(0.01, 10), st.integers(0, 50), st.floats(0.001, 1))
def test_any_distribution_is_one(row, temperature, top_k, top_p):
    ids, chances = distribution(row, SamplingOptions(temperature, top_k, top_p))
    assert chances.sum() == pytest.approx(1)
    assert row[ids[0]] == row.max()
    assert 1 <= len(ids) <= (top_k or len(row))
    assert len(set(ids.tolist())) == len(ids)


def test_draws_follow_the_chances():
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=3), 1)
    draws = [sampler.choose(LOGITS[None])[0] for _ in range(4000)]
    assert np.bincount(draws, minlength=4) / 4000 == pytest.approx(np.exp(LOGITS), abs=0.03)


def test_equal_seeds_choose_alike_and_others_do_not():
    def draw(seed, batch=1):
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed), batch)
        return [sampler.choose(np.tile(LOGITS, (batch, 1))) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)
    assert [row[0] for row in draw(1, batch=3)] == [row[0] for row in draw(1)]


@pytest.mark.parametrize(
    "field",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"seed": -1}],
)
def test_impossible_values_are_refused_by_name(field):
    with pytest.raises(ConfigError, match=next(iter(field))):
        SamplingOptions(**field)
