"""`innerq-export parity` on a folder with a fault: exit 3, five lines that say it all, --bisect, not ready."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from innerq_export.cli.main import cli
from innerq_export.errors import UserError
from tests.parity import faults


def test_a_fault_in_five_lines(tiny_engine, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", faults.block_unseen)
    words = [Path(sys.executable).with_name("innerq-export"), "parity", folder, "--bisect", tmp_path / "piece"]
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert result.returncode == 3 and result.stdout == ""
    said = result.stderr[result.stderr.index("error:") :].splitlines()
    assert "not ready" in said[0] and "rung 'op'" in said[1]
    assert "layer 0, KV head" in said[2] and "token" in said[2]
    assert "expected: at least 40 dB; got:" in said[3] and "next:" in said[4]
    assert (tmp_path / "piece" / "piece.onnx").is_file()
    assert json.loads((folder / "manifest.json").read_text())["ready"] is False
    assert json.loads((folder / "parity.json").read_text())["finding"]["rung"] == "op"
    assert (folder / "parity-dark.svg").is_file()


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"another")])
def test_an_engine_whose_files_are_not_the_built_ones_gets_no_verdict(tiny_engine, tmp_path, damage) -> None:
    folder = Path(shutil.copytree(tiny_engine, tmp_path / "engine"))
    before = (folder / "manifest.json").read_text()
    damage(folder / "model.onnx")
    with pytest.raises(UserError, match=r"model\.onnx is (missing|not the file)(.|\n)*innerq-export build"):
        CliRunner().invoke(cli, ["parity", str(folder)], catch_exceptions=False)
    assert (folder / "manifest.json").read_text() == before


def test_a_recording_that_is_none_is_refused_before_anything_runs(tiny_engine, tmp_path) -> None:
    (tmp_path / "x.json").write_text("[]")
    words = ["parity", str(tiny_engine), "--against", str(tmp_path / "x.json")]
    with pytest.raises(UserError, match="no recording of parity"):
        CliRunner().invoke(cli, words, catch_exceptions=False)
