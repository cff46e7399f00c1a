"""The timing cache against a stand-in for the builder config: TensorRT itself needs a GPU."""

import pytest

from innerq_export.engine.timing_cache import TimingCache


class Config:
    """Takes caches that are empty or begin with its own mark, as TensorRT takes those of its own version and card."""

    def create_timing_cache(self, known):
        return Cache(known)

    def set_timing_cache(self, cache, ignore_mismatch):
        self.cache = cache
        return cache.known[:4] in (b"", b"mine")


class Cache:
    def __init__(self, known):
        self.known = known

    def serialize(self):
        return self.known or b"mine: measured"


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, b"mine: measured"), (b"mine: old", b"mine: old"), (b"another card", b"mine: measured")],
)
def test_timings_are_kept_and_those_of_another_card_dropped(tmp_path, before, after):
    path = tmp_path / "deep" / "timings"
    if before is not None:
        path.parent.mkdir()
        path.write_bytes(before)
    timings = TimingCache(path)
    timings.attach(Config())
    timings.save()
    assert path.read_bytes() == after
    assert [file.name for file in path.parent.iterdir()] == ["timings"]


def test_without_a_path_nothing_is_attached_or_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, timings = Config(), TimingCache(None)
    timings.attach(config)
    timings.save()
    assert not hasattr(config, "cache")
    assert list(tmp_path.iterdir()) == []
