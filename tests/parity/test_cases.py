"""What is run: the lengths that the project promises, and nothing beyond a model's context."""

from __future__ import annotations

from innerq_export.parity.cases import FAST, FULL, Case, free_case, prompts_case

PROMISED = {1, 31, 32, 33, 127, 128, 129, 160, 200}


def test_the_fast_set_keeps_the_promise() -> None:
    alone = {case.calls[0][0] for case in FAST if case.batch == 1}
    assert alone >= PROMISED
    assert {case.batch for case in FAST} == {1, 2}
    ragged = [case for case in FAST if case.batch == 2 and len(set(case.calls[0])) == 2]
    assert {prompt for case in ragged for prompt in case.calls[0]} >= PROMISED - {33}
    for batch in (1, 2):
        longest = max(sum(set(call) == {1} for call in case.calls) for case in FAST if case.batch == batch)
        assert longest >= 300
    assert set(FAST) < set(FULL)


def test_cases_end_where_the_context_ends() -> None:
    case = prompts_case(10, 4, decode=20)
    assert case.totals == (30, 24)
    cut = case.within(15)
    assert cut is not None and cut.totals == (15, 9)
    assert case.within(30) == case
    assert case.within(9) is None


def test_a_sequence_may_rest() -> None:
    assert Case("rest", ((3, 0), (0, 5))).totals == (3, 5)


def test_a_free_run_begins_behind_its_prompt_even_in_chunks() -> None:
    case = free_case(8, 2, chunk=4)
    assert case.calls == ((4,), (4,), (1,), (1,))
    assert [case.is_free(index) for index in range(4)] == [False, False, True, True]
    assert not any(prompts_case(3, decode=2).is_free(index) for index in range(3))
    assert any(case.free and case.totals[0] > 8192 for case in FULL), "8K and more, free as well as on the text"
