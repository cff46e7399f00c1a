"""Decoding by type hints: equal values come back, and every misfit is named by its path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from innerq_export.engine.strict import decode


@dataclass(frozen=True)
class Inner:
    size: int
    label: str | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    table: Mapping[str, Inner]
    pairs: tuple[tuple[str, int], ...] = ()
    free: Any = None


GOOD = {"inner": {"size": 1}, "table": {"a": {"size": 2, "label": "x"}}, "pairs": [["p", 3]], "free": [None]}


def test_everything_that_fits_comes_back():
    assert decode(Outer, GOOD) == Outer(Inner(1), {"a": Inner(2, "x")}, (("p", 3),), [None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inner": {"size": "1"}}, "inner.size is '1', not of type int"),
        ({"inner": {"size": True}}, "inner.size is True, not of type int"),
        ({"inner": {}}, "inner.size is missing"),
        ({"inner": {"size": 1, "lable": "x"}}, "inner.lable is unknown, did you mean 'label'?"),
        ({"inner": {"size": 1, "label": 5}}, "inner.label is 5, not of type str"),
        ({"table": {"a": []}}, "table.a is [], not of type dict"),
        ({"pairs": [["p", 3], ["q"]]}, "pairs.1 has 1 items instead of 2"),
        ({"pairs": {"p": 3}}, "pairs is {'p': 3}, not of type list"),
    ],
)
def test_a_misfit_is_named_by_its_path(change, message):
    with pytest.raises(ValueError) as caught:
        decode(Outer, GOOD | change)
    assert str(caught.value) == message
