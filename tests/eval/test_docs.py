"""docs/fidelity.md rests on the two reports beside it: what it claims is read off them here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "fidelity"
PAGE = (FOLDER.parent / "fidelity.md").read_text()
BEATEN_BY = {"demo": {"kivi-4-sinks", "int8-token"}}


@pytest.fixture(scope="module", params=BEATEN_BY)
def told(request):
    report = json.loads((FOLDER / request.param / "fidelity.json").read_text())
    return request.param, report, {row["name"]: row for row in report["rows"]}


def kl(row) -> float:
    return row["kl_mean"]["mean"]


def test_three_seeds_a_command_and_every_figure(told):
    name, report, _ = told
    assert report["schema"] == "innerq-export/fidelity/1"
    assert len(report["settings"]["seeds"]) >= 3
    assert "innerq-export eval" in PAGE
    for figure in ("fidelity", "ablation", "layers", "recall"):
        assert (FOLDER / name / f"{figure}-light.svg").exists()
        assert f"fidelity/{name}/{figure}-light.svg" in PAGE


def test_ours_beat_the_papers_presets(told):
    _, _, rows = told
    assert kl(rows["balanced"]) < kl(rows["base"])
    assert kl(rows["compact"]) < min(kl(rows["small"]), kl(rows["hybrid"]))


def test_baselines_that_the_page_does_not_name_as_better_are_beaten(told):
    """At equal or fewer bits the best preset has the lower mean KL."""
    name, report, _ = told
    presets = [row for row in report["rows"] if row["group"] == "presets"]
    better = set()
    for row in report["rows"]:
        if row["group"] == "baselines":
            best = min(kl(one) for one in presets if one["bits"] <= row["bits"])
            better |= {row["name"]} if kl(row) <= best else set()
    assert better == BEATEN_BY[name]
    assert all(f"**`{one}`**" in PAGE for one in better)


def test_the_allocation_can_be_used_as_the_page_says(told):
    from innerq_export.spec import CacheConfig

    _, report, rows = told
    configs = [CacheConfig.from_dict(one) for one in report["auto"]["auto 3.25"]["configs"]]
    assert len(configs) == report["model"]["layers"]
    assert kl(rows["auto 3.25"]) < kl(rows["hybrid"])
    assert rows["auto 3.25"]["bits"] <= rows["hybrid"]["bits"]
