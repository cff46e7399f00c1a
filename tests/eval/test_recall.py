import re

import numpy as np
import pytest

from innerq_export.eval.recall import LINE_BYTES, Fact, draw_facts, needle_prompt, scatter_facts, scatter_pairs

LINE = re.compile(rb"\n\[([a-z]{6}): ([a-z]{6})\]\n")


def test_facts_have_different_keys_and_come_from_the_seed():
    facts = draw_facts(500, np.random.default_rng(0))
    assert len({fact.key for fact in facts}) == 500 and len({fact.value for fact in facts}) > 450
    assert facts == draw_facts(500, np.random.default_rng(0)) != draw_facts(500, np.random.default_rng(1))


def test_question_and_answer_together_are_the_statement():
    fact = Fact("zanubo", "kitare")
    assert fact.question + fact.answer + b"\n" == fact.line == b"\n[zanubo: kitare]\n" and len(fact.line) == LINE_BYTES


def test_lines_are_whole_do_not_overlap_and_leave_the_rest_alone():
    generator = np.random.default_rng(2)
    text = np.full(1000, ord("."), np.uint8)
    facts = draw_facts(4, generator)
    scatter_facts(text, facts, 20, generator)
    found = [Fact(key.decode(), value.decode()) for key, value in LINE.findall(text.tobytes())]
    assert len(found) == 20 and set(found) == set(facts)
    assert set(LINE.sub(b"", text.tobytes())) == {ord(".")}


def test_as_many_lines_as_fit_and_no_more():
    generator = np.random.default_rng(3)
    facts = draw_facts(2, generator)
    scatter_facts(np.zeros(3 * LINE_BYTES, np.uint8), facts, 3, generator)
    with pytest.raises(ValueError, match="at most 2"):
        scatter_facts(np.zeros(3 * LINE_BYTES - 1, np.uint8), facts, 3, generator)


@pytest.mark.parametrize("apart", [False, True])
def test_pairs_are_told_and_then_asked_for_and_leave_the_rest_alone(apart):
    generator = np.random.default_rng(4)
    text = np.full(1000, ord("."), np.uint8)
    facts = draw_facts(20, generator)
    told, asked = scatter_pairs(text, facts, apart, generator)
    assert (told < asked).all() and (told.max() < asked.min()) == apart
    for starts in (told, asked):
        assert [text[start : start + LINE_BYTES].tobytes() for start in starts] == [fact.line for fact in facts]
    assert set(LINE.sub(b"", text.tobytes())) == {ord(".")} and text.tobytes().count(b"[") == 40
    assert len({int(start) % LINE_BYTES for start in told}) > 5  # anywhere, not in cells


def test_as_many_pairs_as_fit_and_no_more():
    generator = np.random.default_rng(5)
    facts = draw_facts(2, generator)
    scatter_pairs(np.zeros(4 * LINE_BYTES, np.uint8), facts, True, generator)
    with pytest.raises(ValueError, match="2 facts do not fit twice into 71 bytes: at most 1"):
        scatter_pairs(np.zeros(4 * LINE_BYTES - 1, np.uint8), facts, True, generator)


@pytest.mark.parametrize(("depth", "before"), [(0.0, 0), (0.5, 36), (1.0, 73)])
def test_a_needle_stands_at_its_depth_in_a_prompt_of_the_asked_length(depth, before):
    fact = Fact("zanubo", "kitare")
    prompt = needle_prompt(b"x" * 80, 100, depth, fact)
    assert len(prompt) == 100 and prompt.index(fact.line) == before and prompt.endswith(fact.question)


@pytest.mark.parametrize("length", [20, 200])
def test_a_prompt_that_cannot_be_made_is_refused(length):
    with pytest.raises(ValueError, match=f"prompt of {length} bytes"):
        needle_prompt(b"x" * 80, length, 0.5, Fact("zanubo", "kitare"))
