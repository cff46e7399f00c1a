"""docs/fidelity.md rests on the reports beside it: what it claims is read off them here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "fidelity"
PAGE = (FOLDER.parent / "fidelity.md").read_text()
BETTER = {"kivi-4-sinks", "int8-token", "hadamard-3-window"}
BEATEN_BY = {"demo": BETTER, "eval": BETTER}
FIGURES = ("fidelity", "ablation", "layers", "recall")
OTHER_TRAININGS = ("eval-faster-rate", "eval-deeper")
TABLED = ("presets", "baselines", "auto")
LOST_TO_THE_PAPER = {"demo": set(), "eval": {("compact", "hybrid")}}
MISSED_RECALL: dict[str, set[str]] = {"demo": set(), "eval": set()}
PAPER = (("balanced", "base"), ("compact", "small"), ("compact", "hybrid"))


def report_of(name):
    report = json.loads((FOLDER / name / "fidelity.json").read_text())
    return report, {row["name"]: row for row in report["rows"]}


@pytest.fixture(scope="module", params=BEATEN_BY)
def told(request):
    return request.param, *report_of(request.param)


def kl(row) -> float:
    return row["kl_mean"]["mean"]


def full_context_recall(row) -> float:
    longest = max(cell["tokens"] for cell in row["recall_cells"])
    found = [cell["recall"] for cell in row["recall_cells"] if cell["tokens"] == longest]
    return sum(found) / len(found)


def line_of(row) -> str:
    spread, recall = row["kl_mean"]["sd"], row["recall"]
    cells = [f"`{row['name']}`", f"{row['bits']:.2f}", f"{1e3 * kl(row):.3g} ± {1e3 * spread:.1g}"]
    cells += [f"{row['perplexity_percent']['mean']:+.2f}%", f"{row['top1']['mean']:.1%}"]
    cells += [f"{recall['mean']:.1%} ± {100 * recall['sd']:.1f}", f"{full_context_recall(row):.1%}"]
    return f"| {' | '.join(cells)} |"


def test_three_seeds_a_command_and_every_figure(told):
    name, report, _ = told
    assert report["schema"] == "innerq-export/fidelity/1"
    assert len(report["settings"]["seeds"]) >= 3
    assert report["command"].split(" --device")[0] in PAGE
    for figure in FIGURES:
        assert (FOLDER / name / f"{figure}-light.svg").exists()
        assert f"fidelity/{name}/{figure}-light.svg" in PAGE


def test_every_row_of_the_pages_tables_is_the_reports(told):
    _, report, _ = told
    assert all(row["recall_cells"] for row in report["rows"])
    tabled = [row for row in report["rows"] if row["group"] in TABLED]
    assert len(tabled) == 17
    assert [line for line in map(line_of, tabled) if line not in PAGE] == []


def test_the_papers_presets_are_beaten_but_where_the_page_says(told):
    name, _, rows = told
    assert {(ours, theirs) for ours, theirs in PAPER if kl(rows[ours]) >= kl(rows[theirs])} == LOST_TO_THE_PAPER[name]


def test_perplexity_and_recall_stay_near_fp16_but_where_the_page_says(told):
    """Perplexity of `balanced` within 1%, recall at full context within 1 point."""
    name, report, rows = told
    assert report["settings"]["tokens"] == max(report["settings"]["needle_lengths"])
    assert abs(rows["balanced"]["perplexity_percent"]["mean"]) < 1
    presets = [row for row in report["rows"] if row["group"] == "presets"]
    lost = {row["name"] for row in presets if full_context_recall(rows["fp16"]) - full_context_recall(row) > 0.01}
    assert lost == MISSED_RECALL[name]


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


@pytest.mark.parametrize("name", ["eval", *OTHER_TRAININGS])
def test_the_table_of_trainings_is_the_reports(name):
    _, rows = report_of(name)
    training = json.loads((FOLDER / name / "training.json").read_text())
    asked = ("fp16", "balanced", "quality", "compact", "base", "k4 v3", "k3 asymmetric", "balanced values only")
    cells = [f"{full_context_recall(rows[one]):.1%}" for one in asked]
    cells += [f"{1e3 * kl(rows[one]):.3g}" for one in ("balanced", "base", "compact", "hybrid", "auto 3.25")]
    assert f" {training['held_out_bits_per_byte']:.2f} | {' | '.join(cells)} |" in PAGE
    assert training["seed"] == 0 and set(training["recall_by_depth"].values()) == {1.0}


@pytest.mark.parametrize("name", OTHER_TRAININGS)
def test_keys_of_three_bits_are_to_blame_for_the_recall_that_is_lost(name):
    """The bar of 1 point is missed by a quarter; values alone lose nothing, and a key bit or zero point mends it."""
    _, rows = report_of(name)
    recall = {one: full_context_recall(row) for one, row in rows.items()}
    assert recall["fp16"] - recall["balanced"] == pytest.approx(0.0125)
    assert recall["balanced keys only"] < 1 and recall["balanced values only"] == 1
    assert recall["k4 v3"] == recall["k3 asymmetric"] == recall["quality"] == 1


def test_bits_per_layer_cost_less_than_more_bits_for_all_on_the_evaluation_models():
    for name in ("eval", *OTHER_TRAININGS):
        _, rows = report_of(name)
        assert rows["auto 3.25"]["bits"] <= 3.25 and kl(rows["auto 3.25"]) < 0.75 * kl(rows["balanced"])


def test_the_demo_report_is_of_the_demo_model_in_the_package():
    from innerq_export.checkpoint import open_checkpoint

    report, _ = report_of("demo")
    assert report["model"]["digest"] == open_checkpoint("llama").digest


def test_the_allocation_can_be_used_as_the_page_says():
    from innerq_export.spec import CacheConfig

    report, rows = report_of("demo")
    configs = [CacheConfig.from_dict(one) for one in report["auto"]["auto 3.25"]["configs"]]
    assert len(configs) == report["model"]["layers"]
    assert kl(rows["auto 3.25"]) < kl(rows["hybrid"])
    assert rows["auto 3.25"]["bits"] <= rows["hybrid"]["bits"]
