"""What is streamed into a plan's file arrives whole and with its digest, whatever pieces, system and disk."""

import errno
import hashlib
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.engine import plan_stream
from innerq_export.engine.plan_stream import PlanStream

PIECE = 4096


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(plan_stream, "_PIECE", PIECE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


def streamed(path, pieces):
    with PlanStream(path) as stream:
        assert [stream.write(piece) for piece in pieces] == [len(piece) for piece in pieces]
    return stream


def is_whole(stream, path, content):
    described = (stream.bytes, stream.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    return described and path.read_bytes() == content


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 5 * PIECE), max_size=8), st.binary(min_size=1, max_size=7))
def test_any_pieces_make_the_file(folder, sizes, pattern):
    pieces = [(pattern * size)[:size] for size in sizes]
    assert is_whole(streamed(folder / "plan", pieces), folder / "plan", b"".join(pieces))


def test_the_check_above_sees_one_bit_and_one_byte(tmp_path):
    stream = streamed(tmp_path / "plan", [b"a" * PIECE, b"b"])
    assert not is_whole(stream, tmp_path / "plan", b"a" * PIECE + b"c")
    assert not is_whole(stream, tmp_path / "plan", b"a" * PIECE)


def test_the_author_may_reuse_its_buffer(tmp_path):
    buffer, content = bytearray(PIECE), b"".join(bytes([number]) * PIECE for number in range(30))
    with PlanStream(tmp_path / "plan") as stream:
        for number in range(30):
            buffer[:] = bytes([number]) * PIECE
            stream.write(memoryview(buffer))
    assert is_whole(stream, tmp_path / "plan", content)


def refuse_direct(monkeypatch):
    real = os.open

    def refusing(path, flags, *mode):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no direct writes here")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="no direct writes on this system")
@pytest.mark.parametrize("system", ["file system refuses", "system has none"])
def test_without_direct_writes(system, tmp_path, monkeypatch):
    if system == "system has none":
        monkeypatch.delattr(os, "O_DIRECT")
    else:
        refuse_direct(monkeypatch)
    assert is_whole(streamed(tmp_path / "plan", [b"x" * (3 * PIECE + 5)]), tmp_path / "plan", b"x" * (3 * PIECE + 5))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        PlanStream(tmp_path / "nowhere" / "plan")


def test_a_disk_that_fills_up_is_noticed_before_the_end(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    taken = []
    with pytest.raises(OSError, match="No space left"), PlanStream(tmp_path / "full") as stream:
        for _ in range(100):
            taken.append(stream.write(bytes(PIECE)))
    assert len(taken) < 10


def test_what_the_author_raises_leaves_no_digest(tmp_path):
    stream = PlanStream(tmp_path / "plan")
    with pytest.raises(ZeroDivisionError), stream:
        stream.write(b"half")
        raise ZeroDivisionError
    assert stream.sha256 == ""
