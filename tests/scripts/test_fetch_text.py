import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripts.loaded import load

fetch = load("fetch_text")

PRINTED = """
Genesis 1

  1 In the beginning God created the heaven and the earth.
  2 And the earth was without form, and void.

Genesis 2

  1 Thus the heavens and the earth were finished.
"""


def serialised(lines):
    """A character vector as R writes it: XDR, version 3."""
    head = b"X\n" + struct.pack(">iiii", 3, 0x040200, 0x030500, 5) + b"UTF-8"
    body = b"".join(struct.pack(">ii", 0x40009, len(line.encode())) + line.encode() for line in lines)
    return head + struct.pack(">ii", 16, len(lines)) + body


def database(*vectors):
    streams = [(len(data), zlib.compress(data)) for data in map(serialised, vectors)]
    return b"".join(struct.pack(">I", length) + stream for length, stream in streams)


def test_verses_lose_their_numbers_and_empty_lines(tmp_path):
    reader = tmp_path / "usr" / "bin" / "bible"
    reader.parent.mkdir(parents=True)
    reader.write_text(f"#!/bin/sh\ncat <<'TEXT'\n{PRINTED}TEXT\n")
    reader.chmod(0o755)
    lines = fetch.bible(tmp_path).splitlines()
    assert lines[:2] == ["Genesis 1", "In the beginning God created the heaven and the earth."]
    assert lines[3:] == ["Genesis 2", "Thus the heavens and the earth were finished."]


def test_paragraphs_become_lines_and_every_book_of_the_database_is_read():
    first = ["EMMA", "", "Emma Woodhouse, handsome,", "clever, and  rich", "", "", "She was the youngest", ""]
    assert fetch.novels(database(first, ["Ça"])) == [
        "EMMA\nEmma Woodhouse, handsome, clever, and rich\nShe was the youngest\n",
        "Ça\n",
    ]


@given(st.lists(st.text(max_size=20), max_size=20))
def test_r_strings_come_back(lines):
    assert fetch.strings(serialised(lines)) == lines


@pytest.mark.parametrize("pieces", [9, 11, 31])
def test_every_byte_is_learned_or_held_out(pieces):
    book = "".join(chr(33 + number) * fetch.PIECE for number in range(pieces))
    learned, held_out = fetch.split([book])
    places = [number for number in range(pieces) if number % 20 == 10]
    assert held_out == b"".join(bytes([33 + number]) * fetch.PIECE for number in places)
    assert sorted(learned + held_out) == sorted(book.encode())


def test_another_text_is_refused(tmp_path, monkeypatch):
    (tmp_path / "novels").touch()
    monkeypatch.setattr(fetch, "NOVELS", "novels")
    monkeypatch.setattr(fetch, "unpack", lambda place: tmp_path)
    monkeypatch.setattr(fetch, "bible", lambda root: "altered\n")
    with pytest.raises(SystemExit, match=r"train\.txt differs: expected sha256 \w{64}, got \w{64}"):
        fetch.main(tmp_path / "out")
