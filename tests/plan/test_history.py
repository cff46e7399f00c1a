"""The history of builds: kept, bounded, forgiving, and scaled to the model that is asked about."""

import pytest

from innerq_export.plan import history
from innerq_export.plan.history import FILE_NAME, PastBuild, phase_of, read_history, record_build, seconds_of
from innerq_export.plan.meter import Measured


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path))
    return tmp_path / FILE_NAME


def test_stages_become_phases_and_come_back(empty_cache):
    stages = [
        Measured("exporting to ONNX", 4.0, 400, 0),
        Measured("rewriting for onnxruntime", 1.0, 500, 0),
        Measured("writing model.onnx", 2.0, 450, 0),
        Measured("building for tensorrt-rtx", 9.0, 500, 700),
        Measured("parity", 3.0, 600, 300),
    ]
    record_build(1000, 2, stages)
    seconds = {"export": 4.0, "write": 3.0, "tensorrt-rtx": 9.0, "parity": 3.0}
    peaks = {"export": 400, "write": 500, "tensorrt-rtx": 1200, "parity": 600}
    assert read_history() == [PastBuild(1000, 2, seconds, peaks)]
    assert [path.name for path in empty_cache.parent.iterdir()] == [FILE_NAME]


def test_only_the_latest_builds_are_kept(monkeypatch):
    monkeypatch.setattr(history, "MOST_BUILDS", 3)
    for size in range(5):
        record_build(size, 1, [])
    assert [build.weight_bytes for build in read_history()] == [2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"{", b"[{}]", b"\xff\xfe", b'[{"weight_bytes": "1"}]', b"7"])
def test_a_damaged_file_is_no_history_and_is_replaced(content, empty_cache):
    empty_cache.write_bytes(content)
    assert read_history() == []
    record_build(5, 1, [])
    assert len(read_history()) == 1


def test_a_cache_that_cannot_be_written_is_no_error(empty_cache, monkeypatch):
    empty_cache.parent.joinpath("file").write_text("")
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(empty_cache.parent / "file"))
    record_build(5, 1, [])
    assert read_history() == []


def test_seconds_scale_from_the_nearest_size_by_what_the_work_is():
    past = [
        PastBuild(1_000, 4, {"export": 1.0}, {}),
        PastBuild(1_000_000, 10, {"export": 20.0, "write": 5.0}, {}),
        PastBuild(1_000_000, 10, {"export": 30.0}, {}),
    ]
    assert seconds_of("export", 2_000_000, 20, past) == 60.0
    assert seconds_of("export", 1_100, 8, past) == 2.0
    assert seconds_of("write", 2_000_000, 20, past) == 10.0
    assert seconds_of("export", 8_000_001, 20, past) == 60.0
    assert seconds_of("write", 8_000_001, 20, past) is None
    assert seconds_of("parity", 2_000_000, 20, past) is None


def test_names_of_stages():
    assert phase_of("writing model.plugin.onnx") == "write"
    assert phase_of("building for onnxruntime") == "onnxruntime"
    assert phase_of("hashing the files") == "hash"
