"""Fidelity against bits with the Pareto front, what each choice buys, needles by depth, and what each layer feels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.figures.style import SIZE_INCHES, Theme, colour, save_both, size_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
_COLOUR = {"presets": "ours", "baselines": "fp16", "auto": "fp8", "yours": "accent", "bits": "limit", "scales": "other"}
_LABEL = {"presets": "presets", "baselines": "baselines", "auto": "chosen per layer", "yours": "yours"}
_LABEL |= {"bits": "other bits", "scales": "least-squares scales"}
_ABLATIONS = ("sink", "recent", "group", "key-norm", "modes", "scales", "parts")
_NEEDLES = ("presets", "baselines", "auto", "yours", "parts")


def fidelity_figures(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the figures that an eval report (Report.to_dict) has data for, light and dark; return their paths."""
    rows = [row for row in report["rows"] if row["name"] != "fp16" and row["kl_mean"]["mean"] > 0]
    where = f"{Path(report['model']['source']).name}, {report['settings']['tokens']} tokens"
    paths = save_both(folder, "fidelity", lambda axes, theme: _bits(axes, theme, rows, where))
    ablated = [row for row in rows if row["group"] in _ABLATIONS]
    if ablated:
        paths += save_both(folder, "ablation", lambda axes, theme: _ablation(axes, theme, ablated, where))
    if report["sensitivity"]:
        paths += save_both(folder, "layers", lambda axes, theme: _layers(axes, theme, report["sensitivity"], where))
    asked = [row for row in report["rows"] if row["recall_cells"] and row["group"] in _NEEDLES]
    if asked:
        paths += save_both(folder, "recall", lambda axes, theme: _recall(axes, theme, asked, where))
    return paths


def pareto(rows: Rows, groups: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the rows of these groups that no other one beats in both bits and mean KL, by bits."""
    front: list[Mapping[str, Any]] = []
    of_groups = (row for row in rows if row["group"] in groups)
    for row in sorted(of_groups, key=lambda row: (row["bits"], row["kl_mean"]["mean"])):
        if not front or row["kl_mean"]["mean"] < front[-1]["kl_mean"]["mean"]:
            front.append(row)
    return front


def _bits(axes: Axes, theme: Theme, rows: Rows, where: str) -> None:
    for group in _LABEL:
        chosen = [row for row in rows if row["group"] == group]
        if chosen:
            named = group in ("presets", "baselines", "auto", "yours")
            _points(axes, chosen, colour(_COLOUR[group], theme), _LABEL[group], named=named)
    for groups, line in ((("presets", "bits"), "-"), (("baselines",), "--")):
        front = pareto(rows, groups)
        style: dict[str, Any] = {"color": colour(_COLOUR[groups[0]], theme), "lw": 1.0, "alpha": 0.6, "zorder": 1}
        axes.plot([row["bits"] for row in front], [row["kl_mean"]["mean"] for row in front], line, **style)
    axes.set_yscale("log")
    axes.set_xlabel("bits per quantised value, scales and zeros included")
    axes.set_ylabel("mean KL to the fp16 cache, nats")
    axes.set_title(f"Fidelity against bits ({where})")
    _tall(axes, 5.6)
    axes.legend(fontsize=8)


def _points(axes: Axes, rows: Rows, paint: str, label: str, *, named: bool) -> None:
    bits, kl = [row["bits"] for row in rows], [row["kl_mean"]["mean"] for row in rows]
    spread = [min(row["kl_mean"]["sd"], 0.95 * row["kl_mean"]["mean"]) for row in rows]
    axes.errorbar(bits, kl, spread, fmt="o" if named else ".", color=paint, label=label, capsize=2, lw=1)
    left = named and rows[0]["group"] == "presets"
    side: dict[str, Any] = {"xytext": (-6 if left else 6, -2), "ha": "right" if left else "left"}
    for row in rows if named else ():
        place = (row["bits"], row["kl_mean"]["mean"])
        axes.annotate(row["name"], place, textcoords="offset points", fontsize=7, color=paint, **side)


def _ablation(axes: Axes, theme: Theme, rows: Rows, where: str) -> None:
    kl = [row["kl_mean"]["mean"] for row in rows]
    spread = [min(row["kl_mean"]["sd"], 0.95 * mean) for row, mean in zip(rows, kl, strict=True)]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    paints = ["ours", "fp8", "other", "fp16", "accent", "limit"]
    colours = [colour(paints[groups.index(row["group"]) % len(paints)], theme) for row in rows]
    _tall(axes, 1.2 + 0.22 * len(rows))
    axes.barh(range(len(rows)), kl, xerr=spread, color=colours, ecolor=theme.ink, capsize=2)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("mean KL to the fp16 cache, nats (shorter is better)")
    axes.set_title(f"What each choice buys ({where})")


def _tall(axes: Axes, inches: float) -> None:
    """Make the figure as tall as its rows need."""
    from matplotlib.figure import Figure

    figure = axes.figure
    assert isinstance(figure, Figure)
    figure.set_size_inches(SIZE_INCHES[0], inches)


def _layers(axes: Axes, theme: Theme, table: Sequence[Mapping[str, Any]], where: str) -> None:
    for part, line in (("keys", "-"), ("values", "--")):
        for bits, paint in ((2, "fp16"), (3, "ours"), (4, "fp8")):
            series = [entry for entry in table if entry["part"] == part and entry["bits"] == bits]
            places, kl = [entry["layer"] for entry in series], [max(entry["kl"], 1e-9) for entry in series]
            axes.plot(places, kl, f"o{line}", color=colour(paint, theme), label=f"{part}, {bits} bits")
    axes.set_yscale("log")
    axes.set_xticks(sorted({entry["layer"] for entry in table}))
    axes.set_xlabel("layer, quantised alone")
    axes.set_ylabel("mean KL, nats")
    axes.set_title(f"What each layer feels ({where})")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)


def _recall(axes: Axes, theme: Theme, rows: Rows, where: str) -> None:
    cells = rows[0]["recall_cells"]
    values = [[100 * cell["recall"] for cell in row["recall_cells"]] for row in rows]
    _tall(axes, 1.6 + 0.24 * len(rows))
    axes.imshow(values, aspect="auto", vmin=0, vmax=100, cmap="viridis")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            ink = "#000000" if value > 60 else "#ffffff"
            axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=6, color=ink)
    labels = [f"{size_label(int(cell['tokens']))}\n{cell['depth']:g}" for cell in cells]
    axes.set_xticks(range(len(cells)), labels, fontsize=7)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    axes.grid(False)
    axes.set_xlabel("tokens in the cache, depth of the needle")
    axes.set_title(f"Needles recalled, % ({where})")
