"""`check_engine` on a real engine folder: it passes, and every fault put into it is caught at its rung and named."""

from __future__ import annotations

import dataclasses

import pytest

from innerq_export.errors import UserError
from innerq_export.parity import Case, ParityReport, check_engine
from innerq_export.parity.cases import prompts_case
from innerq_export.spec import PRESETS
from tests.engine.real import engine_of
from tests.parity import faults

CASES = (prompts_case(50, decode=3), Case("ragged", ((60, 20), (0, 33), (3, 1))))


@pytest.fixture(scope="module")
def report(tiny_engine, tiny_checkpoint) -> ParityReport:
    return check_engine(tiny_engine, tiny_checkpoint, cases=CASES)


def test_a_sound_engine_passes_every_rung(report) -> None:
    assert report.passed and report.finding is None
    statuses = {rung.name: rung.status for rung in report.rungs}
    verdicts = dict.fromkeys(["cache", "attention", "keys and values", "logits", "as shipped"], "passed")
    assert statuses == verdicts | {"unquantised": "reported"}
    assert all(rung.calls == 7 for rung in report.rungs)


def test_its_figures(report) -> None:
    figures = {rung.name: rung.figures for rung in report.rungs}
    assert figures["attention"]["worst dB"] == min(report.layers_db)
    assert 50 < min(report.layers_db) < 90
    assert figures["logits"]["worst dB"] > 50
    assert 0 < figures["unquantised"]["mean KL"] < 1
    assert ParityReport.from_json(report.to_json()) == report


@pytest.mark.parametrize("preset", ["compact", "hybrid"])
def test_other_presets_pass(preset: str, tiny_checkpoint, tiny_graph, tmp_path) -> None:
    cache = PRESETS[preset].replace(sink=4, recent=12)
    folder = engine_of(tiny_checkpoint, tiny_graph, tmp_path / "engine", cache)
    assert check_engine(folder, tiny_checkpoint, cases=CASES[1:]).passed


@pytest.mark.parametrize(
    ("spoil", "rung", "layer", "what"),
    [
        (faults.code_one_step_off, "cache", 0, "key_codes"),
        (faults.scales_swapped, "cache", 0, "value_scales"),
        (faults.block_misplaced, "cache", 0, "key_codes"),
        (faults.block_unseen, "attention", 0, "attention"),
        (faults.heads_mixed, "attention", 0, "attention"),
        (faults.lambda_forgotten, "attention", 0, "attention"),
        (faults.positions_late, "keys and values", 0, "keys"),
        (faults.keys_for_values, "keys and values", 1, "values"),
        (faults.logits_of_the_wrong_token, "logits", None, "logits"),
        (faults.only_in_layer(1, faults.code_one_step_off), "cache", 1, "key_codes"),
        (faults.only_in_layer(1, faults.scales_swapped), "cache", 1, "value_scales"),
        (faults.only_in_layer(1, faults.block_unseen), "attention", 1, "attention"),
    ],
)
def test_a_fault_is_caught_and_named(spoil, rung, layer, what, tiny_engine, tiny_checkpoint, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", spoil)
    report = check_engine(folder, tiny_checkpoint, cases=CASES)
    assert not report.passed and report.finding is not None
    assert (report.finding.rung, report.finding.layer) == (rung, layer), report.text()
    assert what in report.finding.what
    statuses = [result.status for result in report.rungs]
    assert statuses.count("failed") == 1 and statuses[-1] in ("not run", "reported")


def test_a_wrong_code_is_placed_to_the_channel(tiny_engine, tiny_checkpoint, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", faults.code_one_step_off)
    finding = check_engine(folder, tiny_checkpoint, cases=CASES).finding
    assert (finding.block, finding.token, finding.kv_head, finding.sequence) == (0, 4 + 5, 0, 0)
    assert finding.expected.endswith("(channel 9)")
    assert float(finding.got.split()[0]) == float(finding.expected.split()[0]) + 1


def test_without_a_checkpoint_rungs_are_not_run_rather_than_passed(tiny_engine) -> None:
    report = check_engine(tiny_engine, None, cases=CASES[:1])
    statuses = {rung.name: (rung.status, rung.reason) for rung in report.rungs}
    assert statuses["cache"][0] == "passed"
    assert statuses["logits"] == ("not run", "no Hugging Face checkpoint to compare with")
    assert report.against == "the reference"


def test_another_checkpoint_is_refused(tiny_engine, tiny_checkpoint) -> None:
    other = dataclasses.replace(tiny_checkpoint, digest="0" * 64)
    with pytest.raises(UserError, match="was not made from"):
        check_engine(tiny_engine, other, cases=CASES)


def test_cases_beyond_the_context_are_cut(tiny_engine) -> None:
    report = check_engine(tiny_engine, None, cases=(*CASES[:1], prompts_case(600, decode=1)))
    assert report.passed and len(report.cases) == 1
