from __future__ import annotations

import json

from click.testing import CliRunner

from innerq_export.cli.plugin import command
from tests.host_library import host_folder


def test_host_build_as_json(host_library):
    with host_folder() as folder:
        result = CliRunner().invoke(
            command, ["build", "--host-only", "--build-dir", str(folder), "--format", "json", "--jobs", "2"]
        )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["architectures"] == "host"
    assert told["library"].endswith("libinnerq_host.so")
    assert "compiling" in result.stderr


def test_show_names_the_library_or_every_place_it_is_not(monkeypatch, host_library, tmp_path):
    monkeypatch.setenv("INNERQ_LIBRARY", str(tmp_path / "gone.so"))
    result = CliRunner().invoke(command, ["show"])
    assert "gone.so (environment variable INNERQ_LIBRARY): no such file" in str(result.exception)
