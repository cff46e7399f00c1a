"""`bench kernels` end to end on the host build: every code path on tiny shapes, no figure worth having."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from innerq_export.bench import appended, behaviour, kernels, prefill
from innerq_export.bench.cases import Case
from innerq_export.bench.kernels import Options, run, with_ratios
from innerq_export.bench.markdown import markdown
from innerq_export.bench.ours import relative_error
from innerq_export.bench.report import Report, Row
from innerq_export.progress import Silent

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def smoke(host_library):
    options = Options(("smoke",), ("balanced", "small"), True, None, host_library.path, "cpu", "innerq-export bench")
    return run(options, Silent())


def test_ours_is_right_and_named(smoke):
    ours = [row for row in smoke.rows if row.kernel == "innerq"]
    assert [(row.precision, row.layout) for row in ours] == [
        ("balanced", "plain"),
        ("balanced", "paged"),
        ("small", "plain"),
        ("small", "paged"),
    ]
    assert smoke.wrong() == []
    assert all(0 < row.error < 1e-3 and 0 < row.error_peaked < 1e-3 for row in ours)


def test_peers_are_checked_too_and_compared_once_a_shape(smoke):
    peers = [row for row in smoke.rows if row.kernel != "innerq"]
    assert [row.kernel for row in peers] == ["torch SDPA flash fp16"]
    assert peers[0].error < 1e-3
    ours = next(row for row in smoke.rows if row.kernel == "innerq")
    assert ours.vs_fp16 == pytest.approx(peers[0].ev_us / ours.ev_us)
    assert ours.vs_fp8 is None


def test_the_report_is_json_and_a_page(smoke, tmp_path):
    paths = smoke.write(tmp_path / "new", "kernels")
    told = json.loads(paths[0].read_text())
    assert told["schema"] == "innerq-bench-kernels/1"
    assert {"device", "date", "torch", "library", "seed"} <= set(told["environment"])
    assert len(told["rows"]) == len(smoke.rows)
    page = paths[1].read_text()
    assert page == markdown(smoke)
    assert "| us ev |" in page
    assert "x best fp8" not in page


def test_a_wrong_or_missing_number_is_found(smoke):
    for error in (2.1e-3, math.nan):
        rows = [dataclasses.replace(smoke.rows[0], error_peaked=error), *smoke.rows[1:]]
        assert len(dataclasses.replace(smoke, rows=rows).wrong()) == 1


def test_an_unwritten_output_is_an_error():
    expected = torch.ones(2, 3, dtype=torch.float64)
    got = expected.half()
    assert relative_error(got, expected) == 0
    got[1, 2] = torch.nan
    assert math.isnan(relative_error(got, expected))


def row(kernel, precision, us, tokens=4096):
    return Row(
        "table", "x", kernel, precision, us, None, 10**6, 50.0, batch=1, query_heads=8, kv_heads=2, tokens=tokens
    )


def test_ratios_take_the_best_peer_of_the_same_shape():
    rows = [row("innerq", "base", 10.0), row("a", "fp16", 40.0), row("b", "fp16", 30.0), row("c", "fp8", 20.0)]
    rows += [row("d", "fp16", 1.0, tokens=8192)]
    ours = with_ratios(rows)[0]
    assert (ours.vs_fp16, ours.vs_fp8) == (3.0, 2.0)
    assert all(r.vs_fp16 is None for r in with_ratios(rows)[1:])


def test_times_to_reach_are_said_to_be_met_or_missed():
    rows = [dataclasses.replace(row("innerq", "base", 10.0), reach_us=us) for us in (9.0, 11.0)]
    page = markdown(Report("c", {"device": "x", "library": {}}, 4.0, rows))
    assert "9 missed" in page
    assert "11 met" in page


@pytest.mark.parametrize("preset", ["balanced", "hybrid"])
def test_appends_are_the_references_bit_for_bit(host_library, preset):
    rows = list(behaviour.append_rows(host_library, preset, CPU, 1, 1e9))
    assert rows[0].bytes_moved > rows[1].bytes_moved
    assert [row.error for row in rows] == [0.0, 0.0]
    assert "one launch; 0 words differ" in rows[0].note


def test_prefill_is_right_beside_its_time(host_library):
    rows = list(prefill.prefill_rows(host_library, "balanced", CPU, 1e9))
    assert [row.kernel for row in rows[:3]] == ["torch SDPA flash fp16", "innerq prefill", "innerq append"]
    assert "bar: 70%" in rows[1].note
    assert all(row.error == 0 for row in rows if row.kernel == "innerq append")
    attended = [row for row in rows if row.kernel != "innerq append"]
    assert all(0 < error < 1e-3 for row in attended for error in (row.error, row.error_peaked))
    assert rows[-2].error > rows[-3].error, "over a history of codes, which flash does not see"


@pytest.mark.parametrize("place", ["window_B2HkvWD", "key_norm_BHkvD", "blocks"])
def test_one_wrong_bit_of_an_append_is_found(host_library, monkeypatch, place):
    append = appended.calls.append

    def faulty(library, cache, *tokens):
        append(library, cache, *tokens)
        tensor = getattr(cache, place)
        tensor.view(torch.int16 if tensor.dtype == torch.float16 else torch.int32)[0, ..., 3] ^= 1

    monkeypatch.setattr(appended.calls, "append", faulty)
    rows = list(behaviour.append_rows(host_library, "balanced", CPU, 1, 1e9))
    assert all(row.error >= 1 for row in rows)
    assert Report("c", {}, 4.0, rows).wrong() == rows


def test_a_token_too_many_in_a_prefill_is_found(host_library, monkeypatch):
    right = prefill.prefill.prefill

    def faulty(library, cache, query, key, value, past, new):
        return right(library, cache, query, key.roll(1, 2), value.roll(1, 2), past, new)

    monkeypatch.setattr(prefill.prefill, "prefill", faulty)
    rows = list(prefill.prefill_rows(host_library, "balanced", CPU, 1e9))
    assert Report("c", {}, 4.0, rows).wrong() == [row for row in rows if row.kernel == "innerq prefill"]


def test_capacity_and_ragged_rows_hold_the_tokens_they_say(host_library, monkeypatch):
    seen: list[Case] = []
    monkeypatch.setattr(behaviour, "our_row", lambda library, case, *rest: seen.append(case) or row("innerq", "x", 1.0))
    told = list(behaviour.attend_rows(host_library, "base", torch.device("cpu"), 1, 1e9))
    assert len(told) == 5
    assert seen[0].bytes_moved() == seen[1].bytes_moved()
    assert seen[1].capacity_blocks > seen[0].capacity_blocks
    assert sum(seen[3].lengths) == pytest.approx(sum(seen[2].lengths), rel=1e-2)
    assert max(seen[3].lengths) == seen[4].tokens


def test_every_section_has_work():
    assert set(kernels._WORK) == set(kernels.SECTIONS)
