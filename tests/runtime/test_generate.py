"""Generation on the toy model: the next token is (last token + tokens held - 1) mod V, so every text is foretold."""

import json

import pytest

from innerq_export.errors import ConfigError
from innerq_export.runtime import EndEvent, GenerateOptions, OnnxRuntimeSession, SamplingOptions, TextEvent, generate
from innerq_export.runtime.events import Usage
from tests.engine.toy import SHAPE, VOCAB, toy_engine
from tests.runtime.test_text import BYTES


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return OnnxRuntimeSession(toy_engine(tmp_path_factory.mktemp("generate") / "engine"))


def foretold(text, count):
    ids = BYTES.encode(text).ids
    for _ in range(count):
        ids.append((ids[-1] + len(ids) - 1) % VOCAB)
    return ids[-count:]


def run(session, prompts, **options):
    events = list(generate(session, BYTES, prompts, GenerateOptions(**options)))
    ends = {event.sequence: event for event in events if isinstance(event, EndEvent)}
    return events, ends


def test_tokens_text_and_usage(session):
    events, ends = run(session, "abc", max_new_tokens=7)
    expected = foretold("abc", 7)
    assert ends[0] == EndEvent(0, "length", BYTES.decode(expected), tuple(expected))
    assert "".join(event.text for event in events if isinstance(event, TextEvent)) == ends[0].text
    usage = events[-1]
    assert isinstance(usage, Usage)
    assert (usage.prompt_tokens, usage.decode_tokens) == (3, 6)
    assert usage.prefill_tokens_per_second > 0
    assert usage.decode_tokens_per_second > 0
    assert usage.cache_bytes == session.cache_bytes


def test_a_batch_says_what_each_prompt_says_alone(session):
    prompts = ["a", "hello world", "xyz"]
    _, together = run(session, prompts, max_new_tokens=9)
    alone = [run(session, prompt, max_new_tokens=9)[1][0].tokens for prompt in prompts]
    assert [together[index].tokens for index in range(3)] == alone


def test_sampling_in_a_batch_draws_what_the_first_draws_alone(session):
    sampling = SamplingOptions(temperature=3.0, seed=1)
    _, together = run(session, ["abc", "de"], max_new_tokens=9, sampling=sampling)
    _, alone = run(session, "abc", max_new_tokens=9, sampling=sampling)
    assert together[0].tokens == alone[0].tokens
    assert alone[0].tokens != tuple(foretold("abc", 9))


def test_stop_tokens_end_a_sequence_while_others_go_on(session):
    third = foretold("abc", 3)[-1]
    config = session.folder / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": third}))
    try:
        _, ends = run(session, ["abc", "q"], max_new_tokens=6)
        assert (ends[0].reason, len(ends[0].tokens)) == ("stop_token", 3)
        assert (ends[1].reason, ends[1].tokens) == ("length", tuple(foretold("q", 6)))
        assert run(session, "abc", max_new_tokens=6, ignore_eos=True)[1][0].reason == "length"
    finally:
        config.unlink()


def test_a_stop_string_is_never_shown(session):
    whole = run(session, "abc", max_new_tokens=20)[1][0].text
    stop = whole[4:6]
    events, ends = run(session, "abc", max_new_tokens=20, stop=(stop,))
    assert ends[0].reason == "stop_string"
    assert ends[0].text == whole[: whole.index(stop)]
    assert "".join(event.text for event in events if isinstance(event, TextEvent)) == ends[0].text


def test_the_end_of_the_context_ends_the_text(session):
    length = SHAPE.max_positions - 2
    _, ends = run(session, "a" * length, max_new_tokens=50)
    assert ends[0].reason == "context"
    assert len(ends[0].tokens) == 3
    assert session.length_B.tolist() == [SHAPE.max_positions]


@pytest.mark.parametrize("prompt", ["", "a" * (SHAPE.max_positions + 1)])
def test_a_prompt_that_does_not_fit_is_refused_before_anything_runs(session, prompt):
    with pytest.raises(ConfigError, match="does not fit"):
        generate(session, BYTES, ["fine", prompt])


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"stop": ("a", "")}, {"prefill_chunk": 0}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        GenerateOptions(**options)
