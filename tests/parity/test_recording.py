"""--save and --against: the same engine agrees with itself; other calls are refused; wrong logits are found."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from innerq_export.errors import UserError
from innerq_export.parity import Case, look_closely, recording
from innerq_export.parity.cases import prompts_case
from innerq_export.parity.report import RungResult
from innerq_export.parity.tolerances import most_kl

CASES = (prompts_case(9, decode=2), Case("ragged", ((60, 20), (0, 33), (3, 1))))


@pytest.fixture(scope="module")
def checked(tiny_engine, tiny_checkpoint):
    return look_closely(tiny_engine, tiny_checkpoint, cases=CASES, only=("cache", "logits"))


@pytest.fixture
def saved(checked, tmp_path, capsys):
    recording.save(checked, tmp_path / "here.json")
    kept = recording.load(tmp_path / "here.json")
    assert capsys.readouterr().out == "", "stdout carries results only"
    return kept


def test_an_engine_agrees_with_its_own_recording(checked, saved) -> None:
    report = recording.compared(checked, saved)
    rung = report.rungs[-1]
    assert report.passed and (rung.name, rung.status) == ("other machine", "passed")
    assert rung.calls == len(checked.recorded) == 6 and rung.figures["mean KL"] == 0


def changed(checked, quantised: bool, share: float = 0.7):
    """Add noise of this share of the logits to the sequences that hold blocks, or to those that hold none."""
    torch.manual_seed(0)

    def noisy(call):
        chosen_B1 = (torch.tensor(call.quantised) == quantised)[:, None]
        noise = torch.randn_like(call.logits_BV) * call.logits_BV.std() * share
        return dataclasses.replace(call, logits_BV=torch.where(chosen_B1, call.logits_BV + noise, call.logits_BV))

    return dataclasses.replace(checked, recorded=[noisy(call) for call in checked.recorded])


def test_differences_before_the_first_block_are_found_in_db(checked, saved) -> None:
    finding = recording.compared(changed(checked, quantised=False), saved).finding
    assert finding is not None and "before anything is quantised" in finding.what
    assert finding.case == CASES[0].name and finding.call == 0


def test_differences_after_it_are_found_by_their_kl_and_turned_codes_are_allowed(checked, saved) -> None:
    finding = recording.compared(changed(checked, quantised=True), saved).finding
    assert finding is not None and "drift" in finding.what
    assert recording.compared(changed(checked, quantised=True, share=0.04), saved).passed


@pytest.mark.parametrize(("cost", "bar"), [(None, 0.01), (0.14, 0.01), (0.02, 0.002), (4.7e-4, 1e-4), (0.0, 1e-4)])
def test_the_bar_follows_what_quantisation_costs_the_model(cost, bar) -> None:
    assert most_kl(cost) == pytest.approx(bar)


def test_a_drift_below_the_widest_bar_is_found_where_quantisation_costs_little(checked, saved) -> None:
    drifted = changed(checked, quantised=True, share=0.04)
    rung = RungResult("unquantised", "reported", "", figures={"mean KL": 2e-3})
    little = dataclasses.replace(drifted, report=drifted.report.replace(rungs=(*drifted.report.rungs, rung)))
    finding = recording.compared(little, saved).finding
    assert finding is not None and finding.expected == "mean KL of 0.0002"


def test_a_recording_of_other_calls_is_refused(checked, saved) -> None:
    fewer = dataclasses.replace(checked, recorded=checked.recorded[:-1])
    other = dataclasses.replace(
        checked, recorded=[dataclasses.replace(call, ids_BS=call.ids_BS + 1) for call in checked.recorded]
    )
    for wrong in (fewer, other):
        with pytest.raises(UserError, match="of other calls"):
            recording.compared(wrong, saved)


def test_an_engine_of_another_dtype_is_refused(checked, saved) -> None:
    assert "float16" in saved.engine
    other = dataclasses.replace(saved, engine=saved.engine.replace("float16", "float32"))
    with pytest.raises(UserError, match=r"another type(.|\n)*float16(.|\n)*float32(.|\n)*--dtype"):
        recording.compared(checked, other)
    elsewhere = dataclasses.replace(saved, engine=saved.engine.replace(" in ", "-copy in "))
    assert recording.compared(checked, elsewhere).passed


def test_another_file_is_refused(tmp_path) -> None:
    (tmp_path / "x.json").write_text("{}")
    for name in ("x.json", "absent.json"):
        with pytest.raises(UserError, match="no recording of parity"):
            recording.load(tmp_path / name)
