from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from innerq_export.cli.bench import command
from innerq_export.errors import ParityError


def arguments(library, *more):
    return ["kernels", "--shapes", "smoke", "--device", "cpu", "--no-peers", "--library", str(library.path), *more]


def test_json_on_stdout_and_files_in_the_folder(host_library, tmp_path):
    result = CliRunner().invoke(command, arguments(host_library, "--format", "json", "--output", str(tmp_path)))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["rows"][0]["kernel"] == "innerq"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels.json", "kernels.md"]


def test_wrong_kernels_end_in_a_parity_error(host_library, monkeypatch):
    from innerq_export.bench import decode

    monkeypatch.setattr(decode, "attend64", lambda step: step.query_BHq1D.double())
    result = CliRunner().invoke(command, arguments(host_library))
    assert isinstance(result.exception, ParityError)
    assert "2 of our rows are wrong" in str(result.exception)
    assert "| us ev |" in result.stdout


@pytest.mark.parametrize("words", [["--shapes", "tabel"], ["--preset", "bass"], ["--device", "tpu"]])
def test_typos_are_usage_errors(words):
    assert CliRunner().invoke(command, ["kernels", *words]).exit_code == 2


def test_figures_can_be_drawn_again_from_json(host_library, tmp_path):
    CliRunner().invoke(command, arguments(host_library, "--output", str(tmp_path)))
    told = json.loads((tmp_path / "kernels.json").read_text())
    told["rows"] = [row | {"section": "growth", "tokens": 4096} for row in told["rows"][:1]]
    (tmp_path / "grown.json").write_text(json.dumps(told))
    result = CliRunner().invoke(command, ["draw", str(tmp_path / "grown.json"), "--output", str(tmp_path / "figures")])
    assert len(result.stdout.splitlines()) == 4, result.output
    (tmp_path / "other.json").write_text('{"schema": "x"}')
    result = CliRunner().invoke(command, ["draw", str(tmp_path / "other.json"), "--output", str(tmp_path)])
    assert "not a report of bench kernels" in str(result.exception)
