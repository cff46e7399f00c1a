"""The result of bench decode: points that say what was measured, where, when and with what."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = "innerq-bench-decode/1"
OURS = "innerq"
METHOD = (
    "ms: CUDA graphs of one greedy step (model, argmax, lengths) replayed one behind the other, by events, median of "
    "rounds; wall_ms: the same by the host's clock; parts: kernel time by kind from torch's profiler; peak_bytes: most "
    "memory torch had allocated, model and cache included. One model for all caches, its layers compiled by torch; "
    "caches hold random data. The unquantised caches are exactly as long as the context and unmasked, their best case."
)
BARS = {(8, 32768): 1.75, (32, 16384): 2.15, (1, 131072): 1.45}
"""Sequences and tokens -> how much faster than the best unquantised cache a step is to be, on one H200."""


@dataclass(frozen=True)
class Point:
    """One cache under the model: `batch` sequences that hold `tokens` each. Times in milliseconds per step."""

    cache: str
    batch: int
    tokens: int
    ms: float
    wall_ms: float
    cache_bytes: int
    peak_bytes: int
    parts: dict[str, float] | None = None
    kernels: int = 0

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all sequences."""
        return self.batch / self.ms * 1e3


@dataclass(frozen=True)
class Fit:
    """The longest context that fits beside the model, allocated and stepped over once: `batch` x `tokens`."""

    cache: str
    batch: int
    tokens: int
    cache_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class DecodeReport:
    """All points of a run. `refused`: what could not be measured, with the reason. `environment`: versions, card."""

    command: str
    environment: dict[str, Any]
    model: dict[str, Any]
    preset: str
    dtype: str
    weight_bytes: int
    points: list[Point]
    fits: list[Fit] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def ratio(self, batch: int, tokens: int) -> float | None:
        """Return the time of the best unquantised 16-bit cache over ours at a point, None where one is missing."""
        here = [point for point in self.points if (point.batch, point.tokens) == (batch, tokens)]
        mine = [point.ms for point in here if point.cache == OURS]
        theirs = [point.ms for point in here if is_plain(point.cache)]
        return min(theirs) / mine[0] if mine and theirs else None

    def fit_ratio(self) -> float | None:
        """Return our longest total context over the unquantised one."""
        total = {fit.cache: fit.batch * fit.tokens for fit in self.fits}
        theirs = [count for name, count in total.items() if is_plain(name)]
        return total[OURS] / max(theirs) if OURS in total and theirs else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` gives back an equal report."""
        ratios = [
            {"batch": batch, "tokens": tokens, "ratio": self.ratio(batch, tokens), "bar": BARS.get((batch, tokens))}
            for batch, tokens in sorted({(point.batch, point.tokens) for point in self.points})
        ]
        extra = {"schema": SCHEMA, "method": METHOD, "ratios": ratios, "fit_ratio": self.fit_ratio()}
        return extra | dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> DecodeReport:
        """Return the report that `to_dict` described."""
        names = {each.name for each in dataclasses.fields(cls)}
        known = {name: value for name, value in fields.items() if name in names}
        points = [Point(**point) for point in fields["points"]]
        return cls(**known | {"points": points, "fits": [Fit(**fit) for fit in fields["fits"]]})

    def write(self, folder: Path) -> list[Path]:
        """Write decode.json and decode.md into `folder`, which is made; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / "decode.json", folder / "decode.md"]
        paths[0].write_text(json.dumps(self.to_dict(), indent=1) + "\n")
        paths[1].write_text(markdown(self))
        return paths


def is_plain(cache: str) -> bool:
    """Whether a cache's name is that of an unquantised 16-bit one."""
    return cache.endswith(("fp16", "bf16"))


def markdown(report: DecodeReport) -> str:
    """Return the tables of a report."""
    where = report.environment
    head = [
        "# Decoding, end to end",
        "",
        f"`{report.command}` on {where['device']}, {where['date']}, torch {where['torch']}, CUDA {where['cuda']}; "
        f"preset {report.preset}, {report.dtype}, weights {report.weight_bytes / 1e9:.1f} GB. {METHOD}",
        "",
    ]
    refused = ["", "Not measured: " + "; ".join(report.refused)] if report.refused else []
    return "\n".join([*head, *_points(report), "", *_parts(report), "", *_fits(report), *refused]) + "\n"


def _points(report: DecodeReport) -> list[str]:
    lines = [
        "| sequences x tokens | cache | ms a step | tokens/s | ours is faster by | bar | cache GB | peak GB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    mine = {(point.batch, point.tokens): point.ms for point in report.points if point.cache == OURS}
    for point in sorted(report.points, key=lambda p: (p.batch, p.tokens)):
        here = (point.batch, point.tokens)
        faster = f"{point.ms / mine[here]:.2f}" if here in mine and point.cache != OURS else ""
        bar = f"{BARS[here]:.2f}" if here in BARS and is_plain(point.cache) else ""
        lines.append(
            f"| {point.batch} x {point.tokens:,} | {point.cache} | {point.ms:.3f} | {point.tokens_per_second:,.0f} | "
            f"{faster} | {bar} | {point.cache_bytes / 1e9:.2f} | {point.peak_bytes / 1e9:.1f} |"
        )
    return lines


def _parts(report: DecodeReport) -> list[str]:
    lines = [
        "| sequences x tokens | cache | gemm ms | attention ms | append ms | rest ms | kernels | clock over kernels |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for point in [point for point in report.points if point.parts]:
        parts = point.parts or {}
        cells = " | ".join(f"{parts.get(kind, 0.0):.3f}" for kind in ("gemm", "attention", "append", "rest"))
        over = point.wall_ms / sum(parts.values()) - 1
        lines.append(f"| {point.batch} x {point.tokens:,} | {point.cache} | {cells} | {point.kernels} | {over:+.1%} |")
    return lines if len(lines) > 2 else []


def _fits(report: DecodeReport) -> list[str]:
    if not report.fits:
        return []
    lines = ["| cache | longest that fits | tokens in all | cache GB | peak GB |", "| --- | --- | --- | --- | --- |"]
    for fit in report.fits:
        total = fit.batch * fit.tokens
        cells = f"{fit.cache_bytes / 1e9:.1f} | {fit.peak_bytes / 1e9:.1f}"
        lines.append(f"| {fit.cache} | {fit.batch} x {fit.tokens:,} | {total:,} | {cells} |")
    return lines
