"""The parity report as a figure: dB of every layer, KL of every token position, and where damage starts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from innerq_export.figures.style import Theme, colour, save_both
from innerq_export.spec.ops import ATTENTION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from innerq_export.parity.report import ParityReport

STEM = "parity"
_TOP_DB = 150.0


def parity_figures(report: ParityReport, folder: Path) -> list[Path]:
    """Write parity-light.svg and parity-dark.svg into `folder` and return their paths."""

    def draw(axes: Axes, theme: Theme) -> None:
        figure = axes.figure
        axes.remove()
        ladder, positions = figure.subplots(1, 2, width_ratios=[1, 1.4])
        _draw_layers(ladder, theme, report)
        _draw_positions(positions, theme, report)

    return save_both(folder, STEM, draw)


def damage_starts(report: ParityReport) -> int | None:
    """Return the token position of the finding, else the first whose mean KL is 10 times that of all before it."""
    if report.finding is not None:
        return report.finding.token
    total = 0.0
    for count, (token, kl) in enumerate(report.kl_by_position):
        if count >= 8 and kl > max(10 * total / count, 1e-3):
            return token
        total += kl
    return None


def _draw_layers(axes: Axes, theme: Theme, report: ParityReport) -> None:
    levels = [min(level, _TOP_DB) if not math.isnan(level) else 0.0 for level in report.layers_db]
    wrong = report.finding.layer if report.finding else None
    bars = [colour("fp16" if layer == wrong else "ours", theme) for layer in range(len(levels))]
    axes.barh(range(len(levels)), levels, color=bars)
    dtype = "float32" if "float32" in report.engine else "float16"
    axes.axvline(ATTENTION.tolerance.min_db[dtype], color=colour("limit", theme), lw=1.2, ls="--")
    axes.set_yticks(range(len(levels)) if len(levels) <= 16 else range(0, len(levels), 4))
    axes.set_ylabel("layer")
    axes.set_xlabel("worst attention output, dB (dashed: floor)")
    axes.set_title(f"{'All rungs passed' if report.passed else _failed(report)}")


def _failed(report: ParityReport) -> str:
    return f"Failed: {report.finding.rung}" if report.finding else "Failed"


def _draw_positions(axes: Axes, theme: Theme, report: ParityReport) -> None:
    if not report.kl_by_position:
        axes.text(0.5, 0.5, "no model without a cache\nto compare with", ha="center", transform=axes.transAxes)
        axes.set_title("KL to the unquantised model")
        return
    tokens, kls = zip(*report.kl_by_position, strict=True)
    axes.plot(tokens, [max(kl, 1e-9) for kl in kls], ".", color=colour("ours", theme), ms=2.5)
    axes.set_yscale("log")
    axes.set_xlabel("token position")
    axes.set_ylabel("mean KL, nats")
    start = damage_starts(report)
    axes.set_title("KL to the unquantised model" + ("" if start is None else f"; from token {start}"))
    if start is not None:
        axes.axvline(start, color=colour("accent", theme), lw=1.2)
