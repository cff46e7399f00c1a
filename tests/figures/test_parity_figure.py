"""parity-light.svg and parity-dark.svg: written, equal for equal data, and damage starts where it starts."""

from __future__ import annotations

import pytest

from innerq_export.figures.parity import damage_starts, parity_figures
from innerq_export.parity.report import Finding, ParityReport

FINDING = Finding("attention", "wrong", "40 dB", "9 dB", "look", "case", 3, layer=1, token=77)
REPORT = ParityReport(
    engine="llama in onnxruntime (float16, native)",
    against="the reference",
    passed=True,
    rungs=(),
    finding=None,
    cases=("case",),
    layers_db=(58.0, float("inf"), 61.5),
    versions={},
    seconds=1.0,
    kl_by_position=tuple((token, 1e-5 if token < 40 else 0.3) for token in range(80)),
)


@pytest.mark.parametrize("report", [REPORT, REPORT.replace(passed=False, finding=FINDING, kl_by_position=())])
def test_both_themes_and_equal_bytes(report, tmp_path) -> None:
    first, again = parity_figures(report, tmp_path / "a"), parity_figures(report, tmp_path / "b")
    assert [path.name for path in first] == ["parity-light.svg", "parity-dark.svg"]
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    text = first[0].read_text()
    assert ("All rungs passed" in text) == report.passed and ("Failed: attention" in text) != report.passed


def test_damage_starts_at_the_finding_or_where_kl_leaps() -> None:
    assert damage_starts(REPORT) == 40
    assert damage_starts(REPORT.replace(finding=FINDING)) == 77
    assert damage_starts(REPORT.replace(kl_by_position=REPORT.kl_by_position[:40])) is None
