"""`pytest --innerq-engine FOLDER` in a folder of a user's own: passes, skips with reasons, fails with the finding."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

from innerq_export.engine.folder import read_manifest, write_manifest
from innerq_export.parity.rung_names import RUNG_NAMES
from tests.parity import faults


def run(folder: Path, *options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-rs", "-v", "-p", "no:cacheprovider", *map(str, options)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_sound_engine(tiny_engine, tmp_path) -> None:
    folder = shutil.copytree(tiny_engine, tmp_path / "engine")
    manifest = read_manifest(folder)
    shape = dataclasses.replace(manifest.model, max_positions=40)
    write_manifest(folder, manifest.replace(model=shape))
    result = run(tmp_path, "--innerq-engine", folder)
    assert result.returncode == 0, result.stdout
    assert "cache PASSED" in result.stdout and "logits PASSED" in result.stdout
    assert "only with --innerq-full" in result.stdout


def test_a_spoiled_engine(tiny_engine, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", faults.heads_mixed)
    result = run(tmp_path, "--innerq-engine", folder)
    assert result.returncode == 1
    assert "op FAILED" in result.stdout and "rung 'op'" in result.stdout and "Traceback" not in result.stdout


def test_a_folder_that_is_none_fails_with_its_fix(tmp_path) -> None:
    result = run(tmp_path, "--innerq-engine", tmp_path / "nothing")
    assert result.returncode == 1 and "fix:" in result.stdout


def test_without_the_option_nothing_is_added_or_imported(tmp_path) -> None:
    (tmp_path / "test_one.py").write_text(
        "import sys\ndef test_one():\n    assert not {'torch', 'onnx', 'numpy'} & set(sys.modules)\n"
    )
    result = run(tmp_path)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout


def test_the_names_of_rungs_are_those_of_a_report(tiny_engine, tiny_checkpoint) -> None:
    from innerq_export.parity import check_engine
    from innerq_export.parity.cases import prompts_case

    report = check_engine(tiny_engine, tiny_checkpoint, cases=(prompts_case(3, decode=0),))
    assert list(dict.fromkeys(rung.name for rung in report.rungs)) == [name for name in RUNG_NAMES if name != "presets"]
