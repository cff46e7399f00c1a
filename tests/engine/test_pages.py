"""Pages are there before the builder asks for them, and stay with it.

Each case is a process of its own: what is set up in malloc cannot be undone.
"""

import subprocess
import sys

import pytest

from innerq_export.engine import pages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are made ready on Linux with glibc")
MB = 1 << 20
PROGRAM = """
import ctypes, resource, sys
from pathlib import Path
from innerq_export.engine import pages

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def faults_of_filling(size):
    before, start = faults(), libc.malloc(size)
    libc.memset(start, 1, size)
    libc.free(start)
    return faults() - before

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
pages._LEAST = 1 << 20
file = Path(sys.argv[1])
"""


@pytest.fixture
def run(tmp_path):
    """Run PROGRAM and `text` beside a file of 64 MB; return what it prints, as numbers."""
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(64 * MB)

    def run(text):
        command = [sys.executable, "-c", PROGRAM + text, str(tmp_path / "weights")]
        return list(map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))

    return run


def test_filling_the_heap_costs_no_faults_and_without_it_does(run):
    pages_of_it = 64 * MB // 4096
    plain = run("print(faults_of_filling(64 << 20), faults_of_filling(64 << 20))")
    ready = run("pages.get_ready([file]).join(); print(faults_of_filling(64 << 20), faults_of_filling(64 << 20))")
    assert min(plain) > pages_of_it // 2, "or this machine backs everything by huge pages, and the test says nothing"
    assert max(ready) < pages_of_it // 20


def test_memory_that_was_freed_is_kept(run):
    first, second = run("pages.get_ready([file]); print(faults_of_filling(200 << 20), faults_of_filling(200 << 20))")
    assert second < 100 < first


def test_what_is_in_the_heap_already_stays(run):
    text = """
thread, kept = pages.get_ready([file]), []
while thread.is_alive() or len(kept) < 15:
    kept = [*kept[-14:], bytes([len(kept) + 1]) * (3 << 20)]
print(*(int(text == text[:1] * (3 << 20) and text[0] > 0) for text in kept))
"""
    assert all(run(text))


def test_small_models_and_other_systems_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "small").write_bytes(b"small")
    assert pages.get_ready([tmp_path / "small"]) is None
    assert pages.get_ready([]) is None
    monkeypatch.setattr(pages, "_LEAST", 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert pages.get_ready([tmp_path / "small"]) is None


def test_a_heap_that_is_not_to_be_had_is_no_error(run):
    assert run("pages._COPIES = 1e9; pages.get_ready([file]).join(); print(1)") == [1]
