"""Parity: is the engine what the reference and PyTorch say? `check_engine` answers with a ParityReport."""

from innerq_export.parity.cases import FAST, FULL, Case, cases_for
from innerq_export.parity.check import ACCURACY_NAME, REPORT_NAME, Checked, check_engine, check_runner, look_closely
from innerq_export.parity.report import Finding, ParityReport, RungResult

__all__ = [
    "ACCURACY_NAME",
    "FAST",
    "FULL",
    "REPORT_NAME",
    "Case",
    "Checked",
    "Finding",
    "ParityReport",
    "RungResult",
    "cases_for",
    "check_engine",
    "check_runner",
    "look_closely",
]
