"""The allocation is the best one there is, and the plans say what they are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.errors import ConfigError
from innerq_export.eval.auto import CHOICES, PARTS, Sensitivity, allocate
from innerq_export.eval.plans import GROUPS, Plan, Sizes, plans_of
from innerq_export.reference.innerq_scheme import innerq_scheme
from innerq_export.spec import PRESETS, CacheConfig

SPEC_BITS = {"balanced": 3.5, "compact": 3.0, "quality": 4.5, "base": 3.5, "small": 3.0, "hybrid": 3.25}


def table(costs: list[list[float]]) -> list[Sensitivity]:
    """Entries of layer, part (keys first) and bits from one list of three costs per part."""
    return [
        Sensitivity(place // 2, PARTS[place % 2], bits, cost)
        for place, row in enumerate(costs)
        for bits, cost in zip(CHOICES, row, strict=True)
    ]


costs = st.lists(st.lists(st.floats(0, 10), min_size=3, max_size=3), min_size=4, max_size=4)


@settings(max_examples=60, deadline=None)
@given(costs, st.sampled_from([2.5, 2.75, 3.0, 3.25, 3.6, 4.5]))
def test_no_other_choice_within_the_budget_is_better(rows, budget):
    made = allocate(table(rows), budget)
    assert made.bits <= budget
    sums = [
        sum(row[CHOICES.index(bits)] for row, bits in zip(rows, chosen, strict=True))
        for chosen in itertools.product(CHOICES, repeat=4)
        if sum(chosen) / 4 + 0.5 <= budget
    ]
    assert made.predicted_kl == pytest.approx(min(sums))
    flat = [bits for layer in made.layers for bits in layer]
    spent = sum(row[CHOICES.index(bits)] for row, bits in zip(rows, flat, strict=True))
    assert spent == pytest.approx(made.predicted_kl)


def test_bits_go_where_they_matter():
    made = allocate(table([[9, 5, 1], [1, 1, 1], [9, 5, 1], [1, 1, 1]]), 3.5)
    assert made.layers == ((4, 2), (4, 2))
    plan = made.plan("auto 3.5")
    assert plan.what == "4/2 4/2"
    assert plan.bits == 3.5


@pytest.mark.parametrize("budget", [2.4, 4.6])
def test_a_budget_that_cannot_be_met_is_refused(budget):
    with pytest.raises(ConfigError, match="budget"):
        allocate(table([[1, 1, 1]] * 2), budget)


def test_plans_of_every_group_count_bits_as_the_spec_does():
    plans = {plan.name: plan for plan in plans_of(GROUPS, Sizes(2, 64))}
    assert {name: plans[name].bits for name in SPEC_BITS} == SPEC_BITS
    assert all(len(plan.schemes) == 2 for plan in plans.values())
    assert plans["k4 v2"].bits == 3.5
    assert plans["balanced ls"].bits == 3.5
    assert plans["balanced keys only"].bits == (3.5 + 16) / 2


def test_bits_of_a_sequence_count_the_window():
    """1,000 tokens of balanced: 864 quantised (32 sink, 104 recent), the rest at 16 bits."""
    scheme = innerq_scheme(PRESETS["balanced"], "balanced")
    assert Plan("one", "presets", (scheme,)).bits_at(1000) == pytest.approx((864 * 3.5 + 136 * 16) / 1000)
    none = innerq_scheme(CacheConfig(recent=1 << 20), "all in the window")
    assert Plan("two", "presets", (none, None)).bits_at(1000) == 16


def test_an_unknown_group_is_named():
    with pytest.raises(ConfigError, match="did you mean 'presets'"):
        plans_of(["preset"], Sizes(2, 64))
