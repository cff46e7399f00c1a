"""`evaluate`: every plan on every seed's text and needles, sensitivity and allocation where asked, one report."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from innerq_export.artifacts import Checkpoint
from innerq_export.errors import ConfigError
from innerq_export.eval.auto import allocate, check_budget, sensitivities
from innerq_export.eval.calibrate import calibrated_key_norms
from innerq_export.eval.measure import Tick, needle_cells, recall_figures, text_figures
from innerq_export.eval.model import Decoder, pick_device
from innerq_export.eval.plans import Plan, Sizes, full_precision, plans_of
from innerq_export.eval.report import Report, Row
from innerq_export.eval.text import Source, open_source
from innerq_export.progress import Progress, Silent
from innerq_export.spec import CacheConfig

CALIBRATION_SEED = 1 << 20
LEAST_TOKENS = 3
"""A prompt, a token to decode, and the one that follows it."""


@dataclass(frozen=True)
class Options:
    """What to try and on how much text. `tokens` 0: the model's context, at most 2,048; `prompt` 0: half of it.

    `extra` are configurations of the user's by name; `budgets` bits per value for which to choose bits per layer.
    """

    groups: tuple[str, ...] = ("presets", "baselines")
    extra: tuple[tuple[str, CacheConfig], ...] = ()
    budgets: tuple[float, ...] = ()
    sensitivity: bool = False
    tokens: int = 0
    prompt: int = 0
    sequences: int = 4
    seeds: tuple[int, ...] = (0, 1, 2)
    needle_lengths: tuple[int, ...] = ()
    needle_depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    needles: int = 16
    text: Path | None = None
    device: str = "auto"
    command: str = ""


def evaluate(checkpoint: Checkpoint, options: Options, progress: Progress | None = None) -> Report:
    """Return the report on one checkpoint. UserError for what cannot be measured."""
    progress = progress or Silent()
    options = _settled(options, checkpoint.shape.max_positions)
    with progress.stage("loading model and text"):
        source = open_source(checkpoint.folder, options.text)
        decoder = Decoder(checkpoint.folder, pick_device(options.device))
        sizes = _sizes(decoder, source, options)
    report = Report(_about(checkpoint, source, decoder, options))
    plans = [full_precision(sizes), *plans_of(options.groups, sizes)]
    plans += [sizes.innerq(config, name, "yours") for name, config in options.extra]
    if options.sensitivity or options.budgets:
        with progress.stage("measuring each layer alone") as step:
            plans += _allocated(report, decoder, sizes, source, options, _Ticks(step, 6 * sizes.layers))
    report.rows.update({plan.name: Row(plan, options.tokens) for plan in plans})
    for seed in options.seeds:
        with progress.stage(f"seed {seed}") as step:
            _measure_seed(report, decoder, source, options, seed, step)
    return report


def _measure_seed(report: Report, decoder: Decoder, source: Source, options: Options, seed: int, step: Any) -> None:
    plans = [row.plan for row in report.rows.values()]
    windows = source.windows(options.sequences, options.tokens, seed)
    cells = list(needle_cells(source, options.needle_lengths, options.needle_depths, options.needles, seed))
    tick = _Ticks(step, len(plans) * (1 + len(cells)))
    for plan, figures in text_figures(decoder, plans, windows, options.prompt, tick):
        report.rows[plan.name].text.append(figures)
    for plan in plans if cells else ():
        report.rows[plan.name].recall.append([])
    for tokens, depth, cell in cells:
        for plan, found in recall_figures(decoder, plans, cell, tokens, depth, tick):
            report.rows[plan.name].recall[-1].append(found)


def _allocated(
    report: Report, decoder: Decoder, sizes: Sizes, source: Source, options: Options, tick: Tick
) -> list[Plan]:
    """Measure every layer alone on windows of no seed's, and return a plan for each budget."""
    report.sensitivity = sensitivities(decoder, sizes, _calibration(source, options), options.prompt, tick)
    plans = []
    for budget in options.budgets:
        name = f"auto {budget:g}"
        report.allocations[name] = allocate(report.sensitivity, budget)
        plans.append(report.allocations[name].plan(name))
    return plans


def _sizes(decoder: Decoder, source: Source, options: Options) -> Sizes:
    folded = "key-norm" in options.groups or any(config.key_norm == "folded" for _, config in options.extra)
    norms = calibrated_key_norms(decoder, _calibration(source, options)) if folded else ()
    return Sizes(decoder.layers, decoder.head_dim, norms)


def _calibration(source: Source, options: Options) -> Tensor:
    return source.windows(options.sequences, options.tokens, CALIBRATION_SEED)


def _settled(options: Options, context: int) -> Options:
    """Return the options with defaults filled in from the model's context. ConfigError for what does not fit."""
    tokens = options.tokens or min(context, 2048)
    prompt = options.prompt or tokens // 2
    longest = max((tokens, *options.needle_lengths))
    if longest > context:
        fix = "choose fewer --tokens and shorter --needle-lengths"
        raise ConfigError("eval: longer than the model's context", expected=f"at most {context}", got=longest, fix=fix)
    if tokens < LEAST_TOKENS:
        raise ConfigError("eval: --tokens", expected=f"at least {LEAST_TOKENS}", got=tokens, fix="a longer window")
    for budget in options.budgets:
        check_budget(budget)
    if not 0 < prompt < tokens - 1:
        raise ConfigError(
            "eval: --prompt", expected=f"from 1 to {tokens - 2}", got=prompt, fix="leave tokens to decode"
        )
    return dataclasses.replace(options, tokens=tokens, prompt=prompt)


def _about(checkpoint: Checkpoint, source: Source, decoder: Decoder, options: Options) -> dict[str, Any]:
    cuda = decoder.device.type == "cuda"
    return {
        "command": options.command,
        "model": {
            "source": checkpoint.source,
            "digest": checkpoint.digest,
            "notes": list(checkpoint.notes),
            "layers": decoder.layers,
            "kv_heads": decoder.kv_heads,
            "head_dim": decoder.head_dim,
        },
        "settings": {
            "text": source.name,
            "tokens": options.tokens,
            "prompt": options.prompt,
            "sequences": options.sequences,
            "seeds": list(options.seeds),
            "needle_lengths": list(options.needle_lengths),
            "needle_depths": list(options.needle_depths),
            "needles": options.needles,
        },
        "environment": {
            "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
            "torch": torch.__version__,
            "date": datetime.date.today().isoformat(),
        },
    }


class _Ticks:
    """Turns names of what is being measured into progress of one stage."""

    def __init__(self, step: Any, total: int):
        self._step, self._total, self._done = step, max(1, total), 0

    def __call__(self, name: str) -> None:
        self._step.advance(self._done / self._total, name)
        self._done += 1
