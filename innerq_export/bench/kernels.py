"""`bench kernels`: in one process, correct first, then timed; ours beside the peers that are there."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from innerq_export.bench import behaviour, cases, peers, prefill
from innerq_export.bench.decode import our_row, peer_rows, release
from innerq_export.bench.peers.paper import run_folder
from innerq_export.bench.report import Report, Row, environment
from innerq_export.bench.timing import copy_bandwidth
from innerq_export.integrations.library import Library, load
from innerq_export.progress import Progress, Step

SECTIONS = ("table", "growth", "behaviour", "prefill", "sweep", "smoke")


@dataclass(frozen=True)
class Options:
    """What to measure and with whom. `sections`: of SECTIONS, in their order; `presets`: for growth, sweep, smoke."""

    sections: tuple[str, ...] = ("table", "growth", "behaviour", "prefill")
    presets: tuple[str, ...] = ("balanced",)
    with_peers: bool = True
    paper_kernels: Path | None = None
    library: Path | None = None
    device: str = "auto"
    command: str = ""


@dataclass(frozen=True)
class _Run:
    options: Options
    library: Library
    device: torch.device
    copy: float
    peers: list[peers.Peer]
    seed: int
    refused: list[str]


def run(options: Options, progress: Progress) -> Report:
    """Measure everything asked for. Errors are in the rows: see Report.wrong."""
    device = torch.device(options.device if options.device != "auto" else _best_device())
    library = load("cuda" if device.type == "cuda" else "host", options.library)
    copy = copy_bandwidth(device)
    found, refused = peers.available(device) if options.with_peers else ([], [])
    state = _Run(options, library, device, copy, found, secrets.randbelow(1 << 31), refused)
    paper = None
    if options.paper_kernels:
        paper = run_folder(options.paper_kernels, _architecture(device), progress)
    rows: list[Row] = []
    for section in SECTIONS:
        if section in options.sections:
            with progress.stage(section) as step:
                rows += _WORK[section](state, step)
    facts = environment(_device_name(device), _library_facts(library)) | {"seed": state.seed}
    if paper:
        facts["paper_kernels"] = paper.made
    timings = [dataclasses.asdict(timing) for timing in paper.timings] if paper else []
    return Report(options.command, facts, copy / 1e12, with_ratios(rows), state.refused, timings)


def with_ratios(rows: list[Row]) -> list[Row]:
    """Return the rows with ours compared to the best peer of the same shape, fp16 and fp8."""

    def best(row: Row, precision: str) -> float | None:
        same = [r.ev_us for r in rows if r.precision == precision and _shape(r) == _shape(row) and r.kernel != "innerq"]
        return min(same) / row.ev_us if same and row.kernel == "innerq" and row.section != "prefill" else None

    return [dataclasses.replace(row, vs_fp16=best(row, "fp16"), vs_fp8=best(row, "fp8")) for row in rows]


def _shape(row: Row) -> tuple[int, ...]:
    return row.batch, row.query_heads, row.kv_heads, row.tokens


def _decode(state: _Run, step: Step, section: str, shapes: list[cases.Case]) -> list[Row]:
    rows: list[Row] = []
    compared: set[tuple[int, ...]] = set()
    for done, case in enumerate(shapes):
        step.advance(done / len(shapes), f"{case.preset} {case.name}")
        rows.append(our_row(state.library, case, section, state.device, state.seed, state.copy))
        release(state.device)
        if _shape(rows[-1]) not in compared:
            compared.add(_shape(rows[-1]))
            rows += peer_rows(state.peers, case, section, state.device, state.copy, state.refused)
    return rows


def _behaviour(state: _Run, step: Step) -> Iterator[Row]:
    preset, facts = state.options.presets[0], (state.device, state.seed, state.copy)
    step.advance(0.0, "attend")
    yield from behaviour.attend_rows(state.library, preset, *facts)
    step.advance(0.7, "append")
    yield from behaviour.append_rows(state.library, preset, *facts)


def _prefill(state: _Run, step: Step) -> Iterator[Row]:
    step.advance(0.0, "flash against ours")
    return prefill.prefill_rows(state.library, state.options.presets[0], state.device, state.copy)


_WORK: dict[str, Callable[[_Run, Step], Any]] = {
    "table": lambda state, step: _decode(state, step, "table", cases.table_cases()),
    "growth": lambda state, step: _decode(state, step, "growth", cases.growth_cases(state.options.presets)),
    "behaviour": _behaviour,
    "prefill": _prefill,
    "sweep": lambda state, step: _decode(state, step, "sweep", cases.sweep_cases(state.options.presets)),
    "smoke": lambda state, step: _decode(state, step, "smoke", cases.smoke_cases(state.options.presets)),
}


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU (times mean nothing)"


def _architecture(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _library_facts(library: Library) -> dict[str, Any]:
    facts = dataclasses.asdict(library.build)
    facts.pop("path")
    return facts
