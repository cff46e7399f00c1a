"""A report as a page to read: one table per section, with what it was measured on above."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from innerq_export.bench.report import METHOD, Report, Row

_APART = ("library", "paper_kernels")
_Columns = dict[str, Callable[[Row], str]]
TITLES = {
    "table": "Decode attention, one new token per sequence",
    "growth": "One sequence, growing",
    "behaviour": "What a launch must not pay for",
    "prefill": "Prompts and chunks",
    "sweep": "Sweep",
    "smoke": "Smoke test (tiny shapes: times mean nothing)",
}


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in report.environment.items() if name not in _APART)
    library = ", ".join(f"{name} {value}" for name, value in report.environment["library"].items())
    lines = [f"# Kernels on {report.environment['device']}", "", f"`{report.command}`", ""]
    lines += [f"{facts}. Library: {library}.", "", METHOD, f"Copy bandwidth of this run: {report.copy_tb_s:.2f} TB/s."]
    for section, title in TITLES.items():
        rows = [row for row in report.rows if row.section == section]
        if rows:
            lines += ["", f"## {title}", "", *table(rows)]
    lines += _paper(report)
    if report.refused:
        lines += ["", "Not measured: " + "; ".join(report.refused) + "."]
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> list[str]:
    """Return the lines of a Markdown table; columns that no row fills are left out."""
    columns = {name: cell for name, cell in COLUMNS.items() if any(cell(row) for row in rows)}
    lines = [_line(columns), _line("---" for _ in columns)]
    return lines + [_line(cell(row) for cell in columns.values()) for row in rows]


def _number(digits: int) -> Callable[[float | None], str]:
    return lambda value: "" if value is None else f"{value:.{digits}f}"


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _reach(row: Row) -> str:
    if row.reach_us is None:
        return ""
    return f"{row.reach_us:.0f} {'met' if row.ev_us <= row.reach_us else 'missed'}"


COLUMNS: _Columns = {
    "shape": lambda row: row.name,
    "kernel": lambda row: row.kernel,
    "cache": lambda row: row.precision,
    "us ev": lambda row: _number(1)(row.ev_us),
    "us graph": lambda row: _number(1)(row.graph_us),
    "to reach": _reach,
    "MB": lambda row: _number(1)(row.bytes_moved / 1e6),
    "TB/s": lambda row: _number(2)(row.tb_s),
    "% copy": lambda row: _number(0)(row.copy_percent),
    "error": lambda row: _error(row.error),
    "error, peaked": lambda row: _error(row.error_peaked),
    "x best fp16": lambda row: _number(2)(row.vs_fp16),
    "x best fp8": lambda row: _number(2)(row.vs_fp8),
    "note": lambda row: row.note,
}


def _paper(report: Report) -> list[str]:
    if not report.paper:
        return []
    lines = ["", "## The paper's own kernels (one sequence, 32/32 heads, no softmax, data may stay in L2)", ""]
    lines += [f"Made of: {report.environment['paper_kernels']}.", ""]
    lines += ["| product | tokens | kernel | us |", "| --- | --- | --- | --- |"]
    return lines + [f"| {t['product']} | {t['tokens']} | {t['kernel']} | {t['us']:.1f} |" for t in report.paper]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
