"""Stages are reused exactly when key and files are what they were; a kill at any moment loses no finished stage."""

import os
import signal
import sys
import traceback
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.engine import stage_record as record_module
from innerq_export.engine import staging
from innerq_export.engine.ledger import Ledger
from innerq_export.engine.stage_record import read_record, unfinished, update_record, write_record

FILES = ("weights", "network", "plan")
REQUEST = "of this test"


class Maker:
    """A build of three stages of a file each; `made` lists those that were done, not reused."""

    def __init__(self, keys=("1", "1", "1")):
        self.keys, self.made = dict(zip(FILES, keys, strict=True)), []

    def stage(self, ledger, name):
        def work():
            self.made.append(name)
            (ledger.folder / name).write_text(f"{name} of {self.keys[name]}")
            return {"says": [name, self.keys[name]]}

        return ledger.run(name, self.keys[name], work)

    def build(self, folder, *, overwrite=False, finished=True):
        with staging(folder, overwrite=overwrite or unfinished(folder, REQUEST), resume=True) as stage:
            ledger = Ledger(stage, folder, REQUEST)
            told = [self.stage(ledger, name) for name in FILES]
            ledger.finish()
            (stage / "manifest.json").write_text("{}")
            ledger.close(finished=finished)
        return told


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


def whole(folder, keys=("1", "1", "1")):
    expected = {name: f"{name} of {key}" for name, key in zip(FILES, keys, strict=True)}
    return contents(folder) == expected | {"manifest.json": "{}"}


def test_a_second_build_makes_nothing_and_says_the_same(tmp_path):
    first, second = Maker(), Maker()
    told = first.build(tmp_path / "e")
    assert second.build(tmp_path / "e", overwrite=True) == told
    assert (first.made, second.made) == (list(FILES), [])
    assert whole(tmp_path / "e")
    record = read_record(tmp_path / "e")
    assert record.reused == FILES
    assert record.saved_seconds == pytest.approx(sum(stage.seconds for stage in record.stages.values()))


@pytest.mark.parametrize("changed", FILES)
def test_another_key_makes_that_stage_alone(tmp_path, changed):
    Maker().build(tmp_path / "e")
    keys = tuple("2" if name == changed else "1" for name in FILES)
    second = Maker(keys)
    second.build(tmp_path / "e", overwrite=True)
    assert second.made == [changed]
    assert whole(tmp_path / "e", keys)


@settings(max_examples=25, deadline=None)
@given(history=st.lists(st.tuples(*[st.sampled_from("123")] * 3), min_size=2, max_size=5))
def test_whatever_changed_before_each_build_makes_what_differs_from_the_last(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("history") / "e"
    last = ("", "", "")
    for keys in history:
        maker = Maker(keys)
        maker.build(folder, overwrite=True)
        assert maker.made == [name for name, key, former in zip(FILES, keys, last, strict=True) if key != former]
        assert whole(folder, keys)
        last = keys


@pytest.mark.parametrize("damage", ["rewritten", "gone", "touched"])
def test_a_file_that_is_not_what_it_was_is_made_again(tmp_path, damage):
    Maker().build(tmp_path / "e")
    file = tmp_path / "e" / "network"
    if damage == "rewritten":
        file.write_text(file.read_text().upper())
    elif damage == "gone":
        file.unlink()
    else:
        os.utime(file, ns=(1, 1))
    second = Maker()
    second.build(tmp_path / "e", overwrite=True)
    assert second.made == ["network"]
    assert whole(tmp_path / "e")


def test_the_engine_that_is_replaced_stays_whole_until_then(tmp_path):
    Maker().build(tmp_path / "e")
    with pytest.raises(KeyboardInterrupt), staging(tmp_path / "e", overwrite=True, resume=True) as stage:
        ledger = Ledger(stage, tmp_path / "e", REQUEST)
        assert ledger.take("network", "1")
        ledger.make("plan", "2", lambda: (stage / "plan").write_text("another") and {})
        raise KeyboardInterrupt
    assert whole(tmp_path / "e")


def test_files_of_stages_that_the_build_no_longer_has_go(tmp_path):
    Maker().build(tmp_path / "e")
    with staging(tmp_path / "e", overwrite=True, resume=True) as stage:
        ledger = Ledger(stage, tmp_path / "e", REQUEST)
        assert ledger.take("network", "1")
        ledger.finish()
        (stage / "manifest.json").write_text("{}")
    assert set(contents(tmp_path / "e")) == {"network", "manifest.json"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"request": "", "boot": "", "stages": {"a": 1}}'])
def test_a_damaged_record_only_means_that_nothing_is_known(tmp_path, text):
    Maker().build(tmp_path / "e")
    (tmp_path / "e" / record_module.RECORD_NAME).write_text(text)
    second = Maker()
    second.build(tmp_path / "e", overwrite=True)
    assert second.made == list(FILES)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname"])
def test_a_record_that_points_out_of_its_folder_is_not_believed(tmp_path, name):
    Maker().build(tmp_path / "e")
    record = read_record(tmp_path / "e")
    stage = record.stages["plan"]
    files = {name: next(iter(stage.files.values()))}
    write_record(tmp_path / "e", replace(record, stages={"plan": replace(stage, files=files)}))
    assert read_record(tmp_path / "e") is None


def test_without_hard_links_an_engine_is_built_anew(tmp_path, monkeypatch):
    Maker().build(tmp_path / "e")
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("not on this disk")))
    second = Maker()
    second.build(tmp_path / "e", overwrite=True)
    assert second.made == list(FILES)
    assert whole(tmp_path / "e")


def test_of_what_a_killed_build_left_only_finished_stages_of_this_build_stay(tmp_path):
    killed_at(tmp_path / "e", 10_000, whole_build=False)
    left = tmp_path / ".e.building"
    for name in ("half", ".plan.new", ".partial-x/weights", ".scratch-y/z"):
        (left / name).parent.mkdir(exist_ok=True)
        (left / name).write_text("unfinished")
    ledger = Ledger(left)
    assert contents(left) == {"weights": "weights of 1"}
    assert len(list(left.rglob("*"))) == 2  # and the record
    ledger.finish()
    assert contents(left) == {}


def test_a_link_that_a_killed_build_made_belongs_to_the_stage_that_makes_it_again(tmp_path):
    (tmp_path / "checkpoint").write_text("weights")
    (tmp_path / "stage").mkdir()

    def link():
        os.link(tmp_path / "checkpoint", tmp_path / "stage" / "weights")
        return {}

    Ledger(tmp_path / "stage").make("weights", "1", link)
    again = Ledger(tmp_path / "stage")
    again.run("weights", "2", link)
    again.finish()
    assert (tmp_path / "stage" / "weights").read_text() == "weights"


def test_nested_stages_count_their_own_seconds(tmp_path, monkeypatch):
    clock = iter([0.0, 1.0, 11.0, 13.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    ledger = Ledger()
    ledger.make("outer", "1", lambda: ledger.make("inner", "1", dict))
    assert {name: stage.seconds for name, stage in ledger.stages.items()} == {"inner": 10.0, "outer": 3.0}


def test_a_build_without_its_verdict_may_be_completed_by_the_same_request_only(tmp_path):
    Maker().build(tmp_path / "e", finished=False)
    assert unfinished(tmp_path / "e", REQUEST)
    assert not unfinished(tmp_path / "e", "another request")
    update_record(tmp_path / "e", "parity", None)
    assert not unfinished(tmp_path / "e", REQUEST)


def test_leftovers_of_another_start_of_the_machine_are_not_trusted(tmp_path, monkeypatch):
    killed_at(tmp_path / "e", 10_000, whole_build=False)
    monkeypatch.setattr("innerq_export.engine.ledger.BOOT", "another")
    second = Maker()
    second.build(tmp_path / "e")
    assert second.made == list(FILES)


_CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def killed_at(folder, moment, *, overwrite=False, keys=("1", "1", "1"), whole_build=True) -> bool:
    """Build in a child that SIGKILLs itself before its `moment`-th change of the disk; tell whether it came to that."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0
        return os.WIFSIGNALED(status)
    seen = 0

    def count(event, arguments):
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in _CHANGES or writes:
            seen += 1
            if seen == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    try:
        if whole_build:
            Maker(keys).build(folder, overwrite=overwrite)
        else:
            with staging(folder, resume=True) as stage:
                Maker(keys).stage(Ledger(stage, folder, REQUEST), "weights")
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    finally:
        traceback.print_exc()
        os._exit(1)


@pytest.mark.parametrize("former", [False, True], ids=["a new folder", "over an engine"])
def test_killed_at_any_moment_the_folder_is_whole_or_absent_and_the_next_build_goes_on(tmp_path, former):
    keys, made = ("2", "2", "2"), []
    for moment in range(1, 200):
        folder = tmp_path / str(moment) / "e"
        if former:
            Maker().build(folder)
        died = killed_at(folder, moment, overwrite=True, keys=keys)
        if folder.exists():
            assert whole(folder, keys) or (former and whole(folder))
        maker = Maker(keys)
        maker.build(folder, overwrite=True)
        assert whole(folder, keys)
        assert {path.name for path in folder.parent.iterdir()} <= {"e", ".e.lock"}
        made.append(len(maker.made))
        if not died:
            break
    assert not died
    assert made == sorted(made, reverse=True), "a later kill loses no more stages"
    assert {3, 2, 1, 0} <= set(made)
