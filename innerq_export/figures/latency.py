"""Latency of decode attention against context, with the roofline: the time in which the bytes alone could be copied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.figures.style import Theme, colour, save_both, tokens_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = list[Mapping[str, Any]]


def latency_figures(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures that a bench report (Report.to_dict) has data for: none without a growing series."""
    rows = [row for row in report["rows"] if row["section"] == "growth"]
    if not rows:
        return []
    where = f"{report['environment']['device']}, {report['environment']['date']}"

    def latency(axes: Axes, theme: Theme) -> None:
        _draw_latency(axes, theme, rows, report["copy_tb_s"])
        axes.set_title(f"Decode attention, one sequence, 32/8 heads of 128 ({where})")

    def share(axes: Axes, theme: Theme) -> None:
        _draw_share(axes, theme, rows)
        axes.set_title(f"Decode attention: share of copy bandwidth ({where})")

    return [*save_both(folder, "latency", latency), *save_both(folder, "roofline", share)]


def _draw_latency(axes: Axes, theme: Theme, rows: Rows, copy_tb_s: float) -> None:
    for (kernel, precision), series in _series(rows).items():
        style: dict[str, Any] = {"color": _colour(kernel, precision, theme), "label": _label(kernel, precision)}
        axes.plot([row["tokens"] for row in series], [row["ev_us"] for row in series], _line(kernel), **style)
    for precision in ("innerq", "fp16"):
        series = _first(rows, precision)
        limit = [row["bytes_moved"] / copy_tb_s / 1e6 for row in series]
        label = f"roofline, {'our' if precision == 'innerq' else 'fp16'} bytes at {copy_tb_s:.2f} TB/s"
        dashes = "--" if precision == "innerq" else ":"
        axes.plot([row["tokens"] for row in series], limit, dashes, color=colour("limit", theme), lw=1.2, label=label)
    tokens_axis(axes, sorted({row["tokens"] for row in rows}))
    axes.set_yscale("log")
    axes.set_ylabel("µs per launch (events, data rotated)")
    axes.legend(loc="lower right", fontsize=8)


def _draw_share(axes: Axes, theme: Theme, rows: Rows) -> None:
    for (kernel, precision), series in _series(rows).items():
        style: dict[str, Any] = {"color": _colour(kernel, precision, theme), "label": _label(kernel, precision)}
        axes.plot([row["tokens"] for row in series], [row["copy_percent"] for row in series], _line(kernel), **style)
    axes.axhline(100, color=colour("limit", theme), lw=1.2, ls="--")
    tokens_axis(axes, sorted({row["tokens"] for row in rows}))
    axes.set_ylim(0, 115)
    axes.set_ylabel("% of copy bandwidth of the same run")
    axes.legend()


def _series(rows: Rows) -> dict[tuple[str, str], Rows]:
    series: dict[tuple[str, str], Rows] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["tokens"]):
        series[row["kernel"], row["precision"]].append(row)
    return series


def _first(rows: Rows, which: str) -> Rows:
    """Return one series of ours ("innerq") or of the first peer with this precision; empty if there is none."""
    for (kernel, precision), series in _series(rows).items():
        if which in (kernel, precision):
            return series
    return []


def _label(kernel: str, precision: str) -> str:
    return f"innerq {precision}" if kernel == "innerq" else kernel


def _line(kernel: str) -> str:
    """Marker and dashes of a kernel: series of one precision share a colour and differ here."""
    return {"cuDNN": "s-", "flash": "v:", "FA2": "D--", "XQA": "^-"}.get(_word(kernel), "o-")


def _word(kernel: str) -> str:
    return next((word for word in ("cuDNN", "flash", "FA2", "XQA") if word in kernel), "")


def _colour(kernel: str, precision: str, theme: Theme) -> str:
    return colour("ours" if kernel == "innerq" else precision, theme)
