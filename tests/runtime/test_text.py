"""Streaming text: the pieces joined are the whole, characters stay whole, stop strings never show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from innerq_export.errors import UserError
from innerq_export.runtime import load_tokenizer, stop_tokens
from innerq_export.runtime.text import Detokeniser, StopStrings


def byte_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def word_tokenizer() -> Tokenizer:
    """Like SentencePiece: words carry a leading mark that becomes a space, except at the start."""
    vocab = {"▁a": 0, "▁b": 1, "c": 2, "<unk>": 3}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


BYTES = byte_tokenizer()


def stream(tokenizer, ids):
    pieces = Detokeniser(tokenizer)
    return [*(pieces.add(token) for token in ids), pieces.flush()]


@given(st.text())
def test_pieces_joined_are_the_text(text):
    assert "".join(stream(BYTES, BYTES.encode(text).ids)) == text


@given(st.lists(st.integers(0, 255), max_size=30))
def test_any_bytes_give_what_decoding_at_once_gives(ids):
    assert "".join(stream(BYTES, ids)) == BYTES.decode(ids)


def test_a_character_appears_only_when_it_is_whole():
    assert stream(BYTES, BYTES.encode("é€😀").ids) == ["", "é", "", "", "€", "", "", "", "😀", ""]


def test_an_unfinished_character_is_marked_at_the_end():
    assert stream(BYTES, BYTES.encode("a€").ids[:-1]) == ["a", "", "", "\ufffd"]


def test_spaces_between_words_survive():
    assert "".join(stream(word_tokenizer(), [0, 1, 2, 0])) == "a bc a"


@given(st.text("ab"), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_cut_where_they_first_appear(text, stops, data):
    pieces, rest = [], text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces, rest = [*pieces, rest[:size]], rest[size:]
    gate, shown, seen = StopStrings(stops), "", ""
    for piece in pieces:
        seen += piece
        shown += gate.add(piece)
        if gate.stopped:
            break
    shown += gate.flush()
    places = [seen.find(stop) for stop in stops if stop in seen]
    assert shown == (seen[: min(places)] if places else text)
    assert gate.stopped == any(stop in text for stop in stops)


def test_text_that_may_become_a_stop_is_held_back():
    gate = StopStrings(["</s>"])
    assert [gate.add("a<"), gate.add("/b"), gate.add("</s"), gate.add(">c")] == ["a", "</b", "", ""]
    assert gate.stopped


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, set()),
        ({"config.json": '{"eos_token_id": 3}'}, {3}),
        ({"config.json": '{"eos_token_id": 3}', "generation_config.json": '{"eos_token_id": [5, 6]}'}, {5, 6}),
        ({"config.json": '{"eos_token_id": 3}', "generation_config.json": "{}"}, {3}),
        ({"config.json": '{"eos_token_id": 0}'}, {0}),
    ],
)
def test_stop_tokens_come_from_the_models_files(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert stop_tokens(tmp_path) == expected


@pytest.mark.parametrize("text", ["{", "[]", '{"eos_token_id": "</s>"}', '{"eos_token_id": [1, null]}', "\x00"])
def test_broken_stop_tokens_are_a_users_error(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        stop_tokens(tmp_path)


def test_a_tokenizer_is_loaded_or_missed_with_a_fix(tmp_path):
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer(tmp_path)
    BYTES.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode("ab").ids == BYTES.encode("ab").ids
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        load_tokenizer(tmp_path)
