import json

import pytest

from tests.scripts.loaded import load

measure = load("measure_tp")


def test_a_row_for_every_batch(tmp_path, monkeypatch, capsys):
    asked = "measure_tp --tp 1 --batch 1 --batch 3 --shape small --device cpu --prompt 40 --steps 3 --output"
    monkeypatch.setattr("sys.argv", [*asked.split(), str(tmp_path / "tp.json")])
    assert measure.main() == 0
    found = json.loads((tmp_path / "tp.json").read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert [(row["tp"], row["batch"]) for row in found["rows"]] == [(1, 1), (1, 3)]
    for row in found["rows"]:
        assert row["tokens_per_second"] == pytest.approx(row["batch"] / row["ms"] * 1e3)
