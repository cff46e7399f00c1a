"""`check_engine` on a real engine folder: it passes, and every fault put into it is caught at its rung and named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx_ir as ir
import pytest

from innerq_export.engine import build_engine, default_profiles
from innerq_export.errors import UserError
from innerq_export.onnx_io import save_onnx
from innerq_export.parity import Case, ParityReport, check_engine
from innerq_export.parity.cases import prompts_case
from innerq_export.rewrite import rewrite
from innerq_export.spec import PRESETS
from tests.parity import faults

VERDICTS = ("cache", "attention", "keys and values", "logits", "tokens", "full precision", "as shipped")
CASES = (prompts_case(50, decode=3), Case("ragged", ((60, 20), (0, 33), (3, 1))))


@pytest.fixture(scope="module")
def report(tiny_engine, tiny_checkpoint) -> ParityReport:
    return check_engine(tiny_engine, tiny_checkpoint, cases=CASES)


def test_a_sound_engine_passes_every_rung(report) -> None:
    assert report.passed and report.finding is None
    statuses = {rung.name: rung.status for rung in report.rungs if not rung.backend}
    verdicts = dict.fromkeys(VERDICTS, "passed")
    assert statuses == verdicts | {"unquantised": "reported"}
    calls = {rung.name: rung.calls for rung in report.rungs if not rung.backend}
    assert calls.pop("full precision") == 1, "only one call has a sequence without a block"
    assert set(calls.values()) == {7}


def test_backends_that_are_absent_are_listed_with_the_reason(report) -> None:
    below = {(rung.name, rung.backend): rung for rung in report.rungs if rung.backend}
    assert below["packing", "reference"].status == below["op", "ONNX Runtime"].status == "passed"
    for place in (("packing", "GPU kernels"), ("op", "GPU kernels"), ("op", "host kernels")):
        assert below[place].status == "passed" or (below[place].status == "not run" and below[place].reason)
    plugin = next(rung for name, rung in ((rung.name, rung) for rung in report.rungs) if name == "plugin")
    assert plugin.status == "passed" or "INNERQ_PLUGIN" in plugin.reason or "CUDA" in plugin.reason


def test_its_figures(report) -> None:
    figures = {rung.name: rung.figures for rung in report.rungs}
    assert figures["attention"]["worst dB"] == min(report.layers_db)
    assert 50 < min(report.layers_db) < 90
    assert figures["logits"]["worst dB"] > 50
    assert 0 < figures["unquantised"]["mean KL"] < 1
    assert figures["full precision"]["worst dB"] > 50
    assert figures["full precision"]["logits compared"] == 1
    assert {token for token, _ in report.kl_by_position} == {49, 50, 51, 52, 59, 19, 62, 53}
    assert figures["unquantised"]["perplexity"] > 1
    assert 0 <= figures["logits"]["max difference"] < 0.2
    assert ParityReport.from_json(report.to_json()) == report


@pytest.mark.parametrize("preset", ["compact", "hybrid"])
def test_other_presets_pass(preset: str, tiny_graph, tmp_path) -> None:
    cache = PRESETS[preset].replace(sink=4, recent=12)
    model, _ = rewrite(tiny_graph, cache)
    saved = save_onnx(model, tmp_path, graph=tiny_graph, cache=cache, lowering="native")
    build_engine(saved, tmp_path, "onnxruntime", default_profiles(tiny_graph.shape, cache, 2, 512))
    assert check_engine(tmp_path, None, cases=CASES[1:]).passed


@pytest.mark.parametrize("fault", [*faults.FAULTS, *faults.IN_THE_LAST_LAYER], ids=lambda fault: fault.name)
def test_a_fault_is_caught_and_named(fault: faults.Fault, tiny_engine, tiny_checkpoint, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", fault.spoil)
    report = check_engine(folder, tiny_checkpoint, cases=CASES)
    assert not report.passed and report.finding is not None
    first = "op" if fault.rung in ("cache", "attention") else fault.rung
    assert (report.finding.rung, report.finding.layer) == (first, fault.layer), report.text()
    assert fault.what in report.finding.what
    statuses = [result.status for result in report.rungs]
    assert statuses.count("failed") == 1 and statuses[-1] in ("not run", "reported")


@pytest.mark.parametrize("fault", faults.IN_THE_LAST_LAYER, ids=lambda fault: fault.name)
def test_so_does_the_rung_above_that_knows_nothing_of_the_ops(fault, tiny_engine, tiny_checkpoint, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", fault.spoil)
    report = check_engine(folder, tiny_checkpoint, cases=CASES, only=("cache", "attention"))
    assert report.finding is not None
    assert (report.finding.rung, report.finding.layer) == (fault.rung, fault.layer), report.text()


def test_the_table_in_the_docs_is_what_is_tested() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "parity.md").read_text()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in docs.splitlines() if line[:1] == "|"]
    tabled = {row[0]: row[2] for row in rows if len(row) == 3 and row[0] in {fault.name for fault in faults.FAULTS}}
    assert tabled == {
        fault.name: "op" if fault.rung in ("cache", "attention") else fault.rung for fault in faults.FAULTS
    }


def test_a_wrong_code_is_placed_to_the_channel(tiny_engine, tiny_checkpoint, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", faults.code_one_step_off)
    finding = check_engine(folder, tiny_checkpoint, cases=CASES, only=("cache",)).finding
    assert (finding.block, finding.token, finding.kv_head, finding.sequence) == (0, 4 + 5, 0, 0)
    assert finding.expected.endswith("(channel 9)")
    assert float(finding.got.split()[0]) == float(finding.expected.split()[0]) + 1


@pytest.fixture(scope="module")
def plain_onnx(tiny_graph, tmp_path_factory) -> Path:
    """The decoder before its rewrite, as a user would bring it."""
    path = tmp_path_factory.mktemp("plain") / "decoder.onnx"
    ir.save(tiny_graph.model, path, external_data="decoder.onnx.data")
    return path


def test_an_engine_from_onnx_is_held_to_that_onnx(tiny_engine, plain_onnx) -> None:
    report = check_engine(tiny_engine, plain_onnx, cases=CASES)
    statuses = {rung.name: rung.status for rung in report.rungs}
    assert report.passed and report.against == "the reference and decoder.onnx in ONNX Runtime"
    assert (statuses["full precision"], statuses["unquantised"]) == ("passed", "reported")
    assert statuses["logits"] == "not run"


@pytest.mark.parametrize("spoil", [faults.keys_for_values, faults.logits_of_the_wrong_token])
def test_so_faults_of_the_graph_show_without_pytorch(spoil, tiny_engine, plain_onnx, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", spoil)
    finding = check_engine(folder, plain_onnx, cases=(prompts_case(9, decode=1),)).finding
    assert finding is not None and finding.rung == "full precision"


def test_an_onnx_with_unknown_inputs_is_refused(tiny_engine) -> None:
    with pytest.raises(UserError, match=r"cannot be run for parity(.|\n)*past_length"):
        check_engine(tiny_engine, tiny_engine / "model.onnx", cases=CASES)


def test_without_a_source_rungs_are_not_run_rather_than_passed(tiny_engine) -> None:
    report = check_engine(tiny_engine, None, cases=CASES[:1])
    statuses = {rung.name: (rung.status, rung.reason) for rung in report.rungs}
    assert statuses["cache"][0] == "passed"
    assert statuses["logits"] == ("not run", "no Hugging Face checkpoint to compare with")
    assert statuses["full precision"] == ("not run", "no model without a cache to compare with")
    assert report.against == "the reference"


def test_another_checkpoint_is_refused(tiny_engine, tiny_checkpoint) -> None:
    other = dataclasses.replace(tiny_checkpoint, digest="0" * 64)
    with pytest.raises(UserError, match="was not made from"):
        check_engine(tiny_engine, other, cases=CASES)


def test_cases_beyond_the_context_are_cut(tiny_engine) -> None:
    report = check_engine(tiny_engine, None, cases=(*CASES[:1], prompts_case(600, decode=1)))
    assert report.passed and len(report.cases) == 1
