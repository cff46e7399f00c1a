"""The figures of every plan over all seeds: JSON for programs, Markdown for people."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from innerq_export.eval.auto import Allocation, Sensitivity
from innerq_export.eval.measure import RecallFigures, TextFigures
from innerq_export.eval.plans import Plan

SCHEMA = "innerq-export/fidelity/1"


@dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (0 of one seed) and each seed's value."""

    mean: float
    sd: float
    seeds: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value per seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, tuple(values))


@dataclass
class Row:
    """One plan: a TextFigures and a list of RecallFigures per seed, beside those of the full-precision cache."""

    plan: Plan
    tokens: int
    text: list[TextFigures] = field(default_factory=list)
    recall: list[list[RecallFigures]] = field(default_factory=list)

    def to_dict(self, full: Row) -> dict[str, Any]:
        """Return the row as JSON values; `full` is the row of the full-precision cache."""
        plan = self.plan
        ratio = [100 * (a.perplexity / b.perplexity - 1) for a, b in zip(self.text, full.text, strict=True)]
        figures = {
            "perplexity": Spread.of([one.perplexity for one in self.text]),
            "perplexity_percent": Spread.of(ratio),
            "kl_mean": Spread.of([one.kl_mean for one in self.text]),
            "kl_p99": Spread.of([one.kl_p99 for one in self.text]),
            "top1": Spread.of([one.top1 for one in self.text]),
        }
        if self.recall:
            figures["recall"] = Spread.of([statistics.fmean(cell.recall for cell in seed) for seed in self.recall])
        levels = [one.attention_db for one in self.text]
        return {
            "name": plan.name,
            "group": plan.group,
            "what": plan.what,
            "bits": plan.bits,
            "bits_at_tokens": round(plan.bits_at(self.tokens), 3),
            **{name: dataclasses.asdict(spread) for name, spread in figures.items()},
            "attention_db": [_finite(statistics.fmean(layer)) for layer in zip(*levels, strict=True)],
            "recall_cells": self._cells(),
        }

    def _cells(self) -> list[dict[str, float]]:
        cells = zip(*self.recall, strict=True)
        return [
            {"tokens": seeds[0].tokens, "depth": seeds[0].depth, "recall": statistics.fmean(s.recall for s in seeds)}
            for seeds in cells
        ]


@dataclass
class Report:
    """What was measured, on what, where; `about` names model, text, settings, environment and command."""

    about: Mapping[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    sensitivity: list[Sensitivity] = field(default_factory=list)
    allocations: dict[str, Allocation] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        full = self.rows["fp16"]
        return {
            "schema": SCHEMA,
            **self.about,
            "rows": [row.to_dict(full) for row in self.rows.values()],
            "sensitivity": [dataclasses.asdict(entry) for entry in self.sensitivity],
            "auto": {name: made.to_dict() for name, made in self.allocations.items()},
        }


def write(told: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a report (Report.to_dict) as fidelity.json and fidelity.md into `folder`; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "fidelity.json", folder / "fidelity.md"]
    paths[0].write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(markdown(told), encoding="utf-8")
    return paths


def markdown(told: Mapping[str, Any]) -> str:
    """Return a report (Report.to_dict) as Markdown: what was measured, then one table."""
    settings = told["settings"]
    lines = [
        f"# Fidelity of {told['model']['source']}",
        "",
        f"{told['model']['layers']} layers, {told['model']['kv_heads']} KV heads of {told['model']['head_dim']}; "
        f"text: {settings['text']}; {len(settings['seeds'])} seeds of {settings['sequences']} windows of "
        f"{settings['tokens']} tokens, the first {settings['prompt']} as prompt; {told['environment']['device']}, "
        f"torch {told['environment']['torch']}, {told['environment']['date']}.",
        f"Made by `{told['command']}`. Mean ± standard deviation over seeds; KL in nats.",
        "",
        "| scheme | bits | bits, window too | KL mean | KL p99 | perplexity | top-1 | recall | worst layer, dB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(_line(row) for row in told["rows"]), *_layers(told)]) + "\n"


def _layers(told: Mapping[str, Any]) -> list[str]:
    """Return the lines about single layers: what was chosen for a budget, and what each costs alone."""
    lines = []
    for name, made in told["auto"].items():
        chosen = " ".join(f"{keys}/{values}" for keys, values in made["layers"])
        lines += ["", f"`{name}`, key / value bits from layer 0 on: {chosen}. Sum of KL: {made['predicted_kl']:.3g}."]
    if told["sensitivity"]:
        kl = {(one["layer"], one["part"], one["bits"]): one["kl"] for one in told["sensitivity"]}
        columns = sorted({place[1:] for place in kl})
        lines += ["", "Mean KL when only one part of one layer is quantised:", ""]
        lines += ["| layer | " + " | ".join(f"{part}, {bits} bits" for part, bits in columns) + " |"]
        lines += ["| --- " * (1 + len(columns)) + "|"]
        for layer in sorted({place[0] for place in kl}):
            cells = " | ".join(f"{kl[(layer, *column)]:.2g}" for column in columns)
            lines.append(f"| {layer} | {cells} |")
    return lines


def _finite(level: float) -> float | None:
    """Return the dB; None where they are infinite, because nothing was quantised: JSON has no infinity."""
    return level if math.isfinite(level) else None


def _worst(levels: Sequence[float | None]) -> str:
    differing = [level for level in levels if level is not None]
    return f"{min(differing):.1f}" if differing else "equal" if levels else ""


def _line(row: Mapping[str, Any]) -> str:
    recall = row.get("recall")
    cells = [
        f"`{row['name']}`",
        f"{row['bits']:.2f}",
        f"{row['bits_at_tokens']:.2f}",
        f"{row['kl_mean']['mean']:.3g} ± {row['kl_mean']['sd']:.1g}",
        f"{row['kl_p99']['mean']:.3g}",
        f"{row['perplexity']['mean']:.4g} ({row['perplexity_percent']['mean']:+.2f}%)",
        f"{100 * row['top1']['mean']:.1f}%",
        f"{100 * recall['mean']:.1f}% ± {100 * recall['sd']:.1f}" if recall else "",
        _worst(row["attention_db"]),
    ]
    return "| " + " | ".join(cells) + " |"
