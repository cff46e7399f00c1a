"""Changed, truncated and missing files are found; unchanged ones are not hashed again."""

import os

import pytest

from innerq_export.engine import files, load_engine, read_manifest
from innerq_export.engine.files import check_files, entries_of, file_entry
from innerq_export.errors import UserError
from tests.engine.toy import toy_engine


@pytest.fixture
def folder(tmp_path):
    return toy_engine(tmp_path / "engine")


def flip_a_byte(path, *, keep_time=False):
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_an_untouched_folder_loads(folder):
    assert load_engine(folder, full=True).manifest["ready"]


def test_one_flipped_bit_is_found_and_the_command_given(folder):
    flip_a_byte(folder / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx is not the file(.|\n)*sha256(.|\n)*innerq-export build"):
        load_engine(folder)


def test_a_flipped_bit_behind_an_unchanged_time_needs_the_full_check(folder):
    flip_a_byte(folder / "model.onnx", keep_time=True)
    load_engine(folder)
    with pytest.raises(UserError, match="sha256"):
        load_engine(folder, full=True)


def test_a_truncated_and_a_missing_file_are_found(folder):
    (folder / "model.onnx").write_bytes(b"short")
    with pytest.raises(UserError, match="5 bytes"):
        load_engine(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_engine(folder)


def test_a_copied_folder_whose_times_changed_loads(folder):
    os.utime(folder / "model.onnx", ns=(1, 1))
    assert load_engine(folder).folder == folder


def test_unchanged_files_are_not_hashed_again(folder, monkeypatch):
    monkeypatch.setattr(files, "sha256_of", lambda path: pytest.fail(f"hashed {path}"))
    check_files(folder, read_manifest(folder).files, fix="")
    entries_of(folder, read_manifest(folder).files)


def test_hard_links_are_marked(tmp_path):
    (tmp_path / "weights").write_bytes(b"abc")
    assert not file_entry(tmp_path / "weights").linked
    os.link(tmp_path / "weights", tmp_path / "model.weights")
    assert file_entry(tmp_path / "model.weights").linked


def test_files_in_folders_are_covered(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a").write_bytes(b"a")
    assert list(entries_of(tmp_path)) == ["inner/a"]


def test_hidden_files_and_folders_are_no_part_of_an_engine(tmp_path):
    (tmp_path / ".scratch-x").mkdir()
    (tmp_path / ".scratch-x" / "model.onnx").touch()
    (tmp_path / ".hidden").touch()
    assert list(entries_of(tmp_path)) == []
