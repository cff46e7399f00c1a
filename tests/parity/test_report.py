"""parity.json: through JSON and back, strict about its schema; the text leads with the finding."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from innerq_export.errors import UserError
from innerq_export.parity.report import NOT_RUN, PASSED, REPORTED, Finding, ParityReport, RungResult

FINDING = Finding(
    rung="cache",
    what="key_codes is wrong",
    expected="2 (channel 9)",
    got="3 (channel 9)",
    advice="run InnerQAppend alone",
    case="prompt 33",
    call=4,
    sequence=1,
    layer=2,
    kv_head=0,
    block=3,
    token=129,
)
REPORT = ParityReport(
    engine="llama in onnxruntime",
    against="the reference",
    passed=False,
    rungs=(
        RungResult("packing", NOT_RUN, "bit for bit", reason="no CUDA card", backend="GPU kernels"),
        RungResult("cache", "failed", "bit for bit", 4, {"caches compared": 9.0}),
        RungResult("attention", PASSED, "50 dB", 4, {"worst dB": math.inf}),
        RungResult("logits", NOT_RUN, "40 dB", reason="a rung below it failed"),
        RungResult("unquantised", REPORTED, "", 4, {"mean KL": 0.25}),
    ),
    finding=FINDING,
    cases=("prompt 33",),
    layers_db=(58.0, math.inf),
    versions={"torch": "2.13"},
    seconds=1.5,
    notes=("random weights",),
    kl_by_position=((0, 0.0), (9, 0.5)),
)


def test_json_round_trip() -> None:
    assert ParityReport.from_json(REPORT.to_json()) == REPORT
    passed = dataclasses.replace(REPORT, passed=True, finding=None)
    assert ParityReport.from_json(passed.to_json()) == passed


def test_json_is_strict_json() -> None:
    assert json.loads(REPORT.to_json(), parse_constant=pytest.fail)["rungs"][2]["figures"]["worst dB"] is None


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1}', "{}"])
def test_other_schemas_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"parity\.json"):
        ParityReport.from_json(text)


def test_the_first_four_lines_say_what_where_and_what_next() -> None:
    """Four, so that with the command line's own first line they are five."""
    lines = REPORT.text().splitlines()[:4]
    assert lines[0] == "rung 'cache': key_codes is wrong"
    assert "layer 2, KV head 0, block 3, token 129, sequence 1" in lines[1]
    assert lines[2].strip() == "expected: 2 (channel 9); got: 3 (channel 9)"
    assert lines[3].strip() == "next:     run InnerQAppend alone"


def test_a_rung_that_did_not_run_is_never_shown_as_passed() -> None:
    line = next(line for line in REPORT.text().splitlines() if "logits" in line)
    assert line.startswith("--") and "not run: a rung below it failed" in line


def test_the_summary_for_the_manifest() -> None:
    assert REPORT.summary == {
        "passed": False,
        "summary": "key_codes is wrong, layer 2, KV head 0, block 3, token 129, sequence 1",
        "figures": {"mean KL": 0.25},
    }
