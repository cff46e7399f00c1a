from __future__ import annotations

import itertools

import pytest

from innerq_export.bench.cases import Case, growth_cases, sweep_cases, table_cases
from innerq_export.spec import PRESETS


def test_bytes_of_a_large_base_case_are_the_records():
    case = Case("base", 8, 32, 8, 32768)
    records = 8 * 8 * 1020 * 3584
    assert case.bytes_moved() > records
    assert case.bytes_moved() < 1.04 * records


def test_bytes_by_hand_for_a_short_sequence():
    case = Case("balanced", 1, 4, 2, 160, head_dim=64)
    window = 127 * 2 * 2 * 64 * 2
    record = 2 * 32 * 64 * 2 * 3.5 / 8
    row = 2 * 64 * 2
    assert case.bytes_moved() == window + record + row + 2 * row + 2 * 4 * 64 * 2


@pytest.mark.parametrize("batch", [2, 8, 32])
def test_ragged_lengths_hold_as_many_tokens(batch):
    case = Case("base", batch, 32, 8, 16384, layout="paged")
    assert sum(case.lengths) == pytest.approx(batch * 16384, rel=1e-3)
    assert (min(case.lengths), max(case.lengths)) == (8192, 24576)


def test_the_table_has_every_shape_with_a_time_to_reach_and_every_preset():
    table = table_cases()
    for preset in ("balanced", "base"):
        reached = {(c.batch, c.kv_heads, c.tokens): c.reach_us for c in table if c.preset == preset}
        assert reached == {
            (8, 8, 32768): 63.0,
            (32, 8, 16384): 118.0,
            (1, 8, 131072): 37.0,
            (1, 8, 32768): 18.0,
            (8, 8, 8192): 24.0,
            (1, 32, 131072): 116.0,
        }
    assert {case.preset for case in table} == set(PRESETS)
    assert {case.layout for case in table} == {"plain", "paged"}


def test_growth_goes_from_4k_to_1m():
    tokens = [case.tokens for case in growth_cases(("base",))]
    assert tokens[0] == 4096
    assert tokens[-1] == 1 << 20
    assert all(later == 2 * earlier for earlier, later in itertools.pairwise(tokens))


def test_the_sweep_fits_on_one_card():
    assert all(case.batch * case.tokens <= 1 << 20 for case in sweep_cases(("base", "small")))
