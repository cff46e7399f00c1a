"""Decoding end to end: tokens per second and memory against context, and where the time of a step goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.figures.style import Theme, colour, save_both, size_label, tokens_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = list[Mapping[str, Any]]
_MARKERS = "osv^D<>"
_PARTS = {"gemm": "limit", "attention": "fp16", "append": "accent", "rest": "other"}


def decode_figures(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures of a bench decode report (DecodeReport.to_dict) that it has data for; return their paths."""
    where = f"{report['environment']['device']}, {report['environment']['date']}"
    rows: Rows = report["points"]
    taken_apart = sorted((row for row in rows if row["parts"]), key=lambda row: (row["batch"], row["tokens"]))

    def speed(axes: Axes, theme: Theme) -> None:
        for style, series in _series(rows, theme):
            axes.plot([row["tokens"] for row in series], [1e3 * row["batch"] / row["ms"] for row in series], **style)
        axes.set_yscale("log")
        _finish(axes, rows, "tokens per second, all sequences")
        axes.set_title(f"Decoding, {report['model']['num_hidden_layers']} layers, {report['dtype']} ({where})")

    def memory(axes: Axes, theme: Theme) -> None:
        for style, series in _series(rows, theme):
            axes.plot([row["tokens"] for row in series], [row["peak_bytes"] / 1e9 for row in series], **style)
        axes.axhline(report["weight_bytes"] / 1e9, color=colour("limit", theme), lw=1.2, ls="--", label="weights")
        _finish(axes, rows, "peak GB on the card")
        axes.set_title(f"Memory while decoding ({where})")

    def parts(axes: Axes, theme: Theme) -> None:
        _draw_parts(axes, theme, taken_apart)
        axes.set_title(f"Where a step's time goes ({where})")

    drawn = [*save_both(folder, "decode-speed", speed), *save_both(folder, "decode-memory", memory)]
    return drawn + (save_both(folder, "decode-parts", parts) if taken_apart else [])


def _series(rows: Rows, theme: Theme) -> Iterator[tuple[dict[str, Any], Rows]]:
    """Yield plot style and rows of each cache and batch; a batch has its marker, a cache its colour and dashes."""
    batches = sorted({row["batch"] for row in rows})
    for name in dict.fromkeys(row["cache"] for row in rows):
        for batch, marker in zip(batches, _MARKERS, strict=False):
            series = [row for row in rows if (row["cache"], row["batch"]) == (name, batch)]
            style = {"marker": marker, "color": colour(_kind(name), theme), "label": f"{name}, {batch}"}
            yield style | {"ls": "--" if "SDPA flash" in name else "-"}, sorted(series, key=lambda r: r["tokens"])


def _kind(cache: str) -> str:
    if cache == "innerq":
        return "ours"
    return "fp8" if "fp8" in cache else "fp16"


def _finish(axes: Axes, rows: Rows, what: str) -> None:
    tokens_axis(axes, sorted({row["tokens"] for row in rows}))
    axes.set_ylabel(what)
    figure: Any = axes.get_figure()
    figure.legend(loc="outside lower center", fontsize=7, ncols=4, title="cache, sequences", title_fontsize=7)


def _draw_parts(axes: Axes, theme: Theme, rows: Rows) -> None:
    """One bar a point, the kinds of kernels stacked."""
    names = [f"{row['batch']} x {size_label(row['tokens'])}\n{row['cache']}" for row in rows]
    left = [0.0] * len(rows)
    for kind, series in _PARTS.items():
        widths = [row["parts"].get(kind, 0.0) for row in rows]
        axes.barh(names, widths, left=left, color=colour(series, theme), label=kind)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("ms of kernels a step")
    axes.legend(fontsize=8)
