"""The developer's scripts explain themselves and take no option for a folder."""

import subprocess
import sys

import pytest

from tests.scripts.loaded import SCRIPTS


@pytest.mark.parametrize("name", ["fetch_text", "make_plugin_tables", "check_clang_format"])
def test_help_is_told_and_nothing_is_done(name, tmp_path):
    command = [sys.executable, str(SCRIPTS / f"{name}.py")]
    told = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.startswith("usage:")
    unknown = subprocess.run([*command, "--no-such-option"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert not list(tmp_path.iterdir())
