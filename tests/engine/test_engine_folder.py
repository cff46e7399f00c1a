"""A folder appears whole or not at all, one build at a time, and nothing of the user's is ever lost."""

import errno
import multiprocessing

import pytest

from innerq_export.engine import read_manifest, seal, staging
from innerq_export.errors import ConfigError, UserError
from tests.engine.toy import toy_engine


def contents(parent):
    return sorted(path.name for path in parent.iterdir() if not path.name.endswith(".lock"))


def test_a_finished_block_takes_the_place_at_once(tmp_path):
    with staging(tmp_path / "deep" / "engine") as stage:
        (stage / "a").write_text("1")
        assert not (tmp_path / "deep" / "engine").exists()
    assert (tmp_path / "deep" / "engine" / "a").read_text() == "1"
    assert contents(tmp_path / "deep") == ["engine"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_block_leaves_nothing(tmp_path, failure):
    with pytest.raises(failure), staging(tmp_path / "engine") as stage:
        (stage / "half").write_text("written")
        raise failure
    assert contents(tmp_path) == []


def test_a_failed_overwrite_leaves_the_former_engine(tmp_path):
    folder = toy_engine(tmp_path / "engine")
    before = read_manifest(folder)
    with pytest.raises(KeyboardInterrupt), staging(folder, overwrite=True):
        raise KeyboardInterrupt
    assert read_manifest(folder) == before
    assert contents(tmp_path) == ["engine"]


def test_overwriting_replaces_every_file(tmp_path):
    folder = toy_engine(tmp_path / "engine")
    with staging(folder, overwrite=True) as stage:
        (stage / "manifest.json").write_text("{}")
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]
    assert contents(tmp_path) == ["engine"]


def test_an_engine_is_not_overwritten_unasked(tmp_path):
    folder = toy_engine(tmp_path / "engine")
    with pytest.raises(ConfigError, match="--overwrite"), staging(folder):
        pass
    assert read_manifest(folder).ready


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_are_no_engine_are_never_deleted(tmp_path, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"chapter\.tex"), staging(tmp_path / "thesis", overwrite=overwrite):
        pass
    with pytest.raises(ConfigError, match="is a file"), staging(tmp_path / "thesis" / "chapter.tex"):
        pass
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_place_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write beside"), staging(tmp_path / "file" / "engine"):
        pass


def test_a_full_disk_is_a_users_error_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="full"), staging(tmp_path / "engine"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert contents(tmp_path) == []


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "engine").mkdir()
    with staging(tmp_path / "engine") as stage:
        (stage / "a").touch()
    assert (tmp_path / "engine" / "a").exists()


def test_leftovers_of_a_killed_build_are_cleared(tmp_path):
    (tmp_path / ".engine.building").mkdir()
    (tmp_path / ".engine.building" / "half").touch()
    with staging(tmp_path / "engine") as stage:
        assert list(stage.iterdir()) == []
    assert contents(tmp_path) == ["engine"]


def test_a_build_killed_in_the_middle_of_the_swap_is_undone(tmp_path):
    toy_engine(tmp_path / "engine").rename(tmp_path / ".engine.former")
    with pytest.raises(ConfigError, match="holds an engine already"), staging(tmp_path / "engine"):
        pass
    assert read_manifest(tmp_path / "engine").ready
    assert contents(tmp_path) == ["engine"]


def _build_slowly(folder, started, finish):
    with staging(folder):
        started.set()
        finish.wait(20)


def test_two_builds_into_one_folder_exclude_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    started, finish = context.Event(), context.Event()
    other = context.Process(target=_build_slowly, args=(tmp_path / "engine", started, finish))
    other.start()
    try:
        assert started.wait(20)
        with pytest.raises(ConfigError, match="another build is writing"), staging(tmp_path / "engine"):
            pass
        with staging(tmp_path / "another"):
            pass
    finally:
        finish.set()
        other.join()
    with staging(tmp_path / "engine", overwrite=True):
        pass


def test_a_killed_build_gives_its_lock_back(tmp_path):
    context = multiprocessing.get_context("fork")
    started, finish = context.Event(), context.Event()
    other = context.Process(target=_build_slowly, args=(tmp_path / "engine", started, finish))
    other.start()
    assert started.wait(20)
    other.kill()
    other.join()
    with staging(tmp_path / "engine"):
        pass
    assert contents(tmp_path) == ["engine"]


def test_sealing_records_the_verdict_and_the_new_files(tmp_path):
    folder = toy_engine(tmp_path / "engine", ready=False)
    assert not read_manifest(folder).ready
    (folder / "parity.json").write_text("{}")
    seal(folder, ready=True, parity={"kl": 0.01})
    manifest = read_manifest(folder)
    assert manifest.ready
    assert manifest.parity == {"kl": 0.01}
    assert set(manifest.files) == {"model.onnx", "parity.json"}


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*nowhere(.|\n)*innerq-export build"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is no engine folder"):
        read_manifest(tmp_path)
