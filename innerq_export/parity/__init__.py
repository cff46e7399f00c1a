"""Parity: is the engine what the reference and PyTorch say? `check_engine` answers with a ParityReport."""

from innerq_export.parity.cases import FAST, FULL, Case
from innerq_export.parity.check import REPORT_NAME, check_engine, check_runner
from innerq_export.parity.report import Finding, ParityReport, RungResult

__all__ = [
    "FAST",
    "FULL",
    "REPORT_NAME",
    "Case",
    "Finding",
    "ParityReport",
    "RungResult",
    "check_engine",
    "check_runner",
]
