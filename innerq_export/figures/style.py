"""One look for all figures: SVG, light and dark, colours that the colour-blind can tell apart (Okabe and Ito, 2008).

A series keeps its colour in every figure: ask `colour`. Text stays text; equal data give byte-equal files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (7.2, 4.2)


@dataclass(frozen=True)
class Theme:
    """Colours of paper, ink and grid."""

    name: str
    paper: str
    ink: str
    faint: str


LIGHT = Theme("light", "#ffffff", "#1f2328", "#d0d7de")
DARK = Theme("dark", "#0d1117", "#e6edf3", "#30363d")
_COLOURS = {
    "ours": ("#0072b2", "#56b4e9"),
    "fp16": ("#d55e00", "#e6803c"),
    "fp8": ("#009e73", "#2fc79d"),
    "other": ("#cc79a7", "#e39cc4"),
    "limit": ("#6e7781", "#8b949e"),
    "accent": ("#b08800", "#e3b341"),
}


def colour(series: str, theme: Theme) -> str:
    """Return the colour of a series: ours, fp16, fp8, other, limit, accent."""
    return _COLOURS[series][theme.name == "dark"]


def save_both(folder: Path, stem: str, draw: Callable[[Axes, Theme], None]) -> list[Path]:
    """Draw once per theme; write <stem>-light.svg and <stem>-dark.svg into `folder`; return their paths."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(rc=_settings(theme)):
            figure, axes = plt.subplots(figsize=SIZE_INCHES, layout="constrained")
            draw(axes, theme)
            paths.append(_write(figure, folder / f"{stem}-{theme.name}.svg"))
            plt.close(figure)
    return paths


def tokens_axis(axes: Axes, tokens: list[int]) -> None:
    """Make x a base-2 axis of tokens labelled 4K, 8K, ... 1M."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, [size_label(count) for count in tokens])
    axes.minorticks_off()
    axes.set_xlabel("tokens in the cache")


def size_label(count: int) -> str:
    """Return 4K for 4096, 1M for 1048576; other numbers as they are."""
    for unit, letter in ((1 << 20, "M"), (1 << 10, "K")):
        if count >= unit and count % unit == 0:
            return f"{count // unit}{letter}"
    return str(count)


def _write(figure: Figure, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None, "Creator": "innerq-export"})
    return path


def _settings(theme: Theme) -> Any:
    ink = {name: theme.ink for name in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")}
    paper = {name: theme.paper for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor")}
    return {
        **ink,
        **paper,
        "axes.edgecolor": theme.faint,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 11,
        "grid.color": theme.faint,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.labelcolor": theme.ink,
        "lines.linewidth": 1.8,
        "lines.markersize": 4.5,
        "font.family": "sans-serif",
        "font.size": 9.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "innerq",
    }
