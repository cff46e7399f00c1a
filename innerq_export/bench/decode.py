"""One shape of decode attention: check ours, time ours, time the peers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from innerq_export.bench.cases import Case
from innerq_export.bench.inputs import random_step, random_steps
from innerq_export.bench.oracle import attend64
from innerq_export.bench.ours import attend_checked, attend_launch, relative_error
from innerq_export.bench.peers import Peer
from innerq_export.bench.report import Row
from innerq_export.bench.timing import measure
from innerq_export.integrations.library import Library

PEAKED_QUERY = 8.0


def our_row(library: Library, case: Case, section: str, device: torch.device, seed: int, copy: float) -> Row:
    """Check and time innerq_attend on one shape; `copy` is this run's copy bandwidth in bytes per second."""
    error, peaked = (_error(library, case, device, seed + i, scale) for i, scale in enumerate((1.0, PEAKED_QUERY)))
    steps = random_steps(case, device, seed + 2)
    timing = measure(attend_launch(library, steps), len(steps), device)
    bytes_moved = case.bytes_moved()
    return Row(
        section=section,
        name=case.name,
        kernel="innerq",
        precision=case.preset,
        ev_us=timing.ev_us,
        graph_us=timing.graph_us,
        bytes_moved=bytes_moved,
        copy_percent=_percent(bytes_moved, timing.ev_us, copy),
        error=error,
        error_peaked=peaked,
        reach_us=case.reach_us,
        **_facts(case),
    )


def peer_rows(
    peers: list[Peer], case: Case, section: str, device: torch.device, copy: float, refused: list[str]
) -> Iterator[Row]:
    """Yield a row for every peer that can do the shape; the others' reasons go to `refused`."""
    for peer in peers:
        try:
            yield _peer_row(peer, case, section, device, copy)
        except (RuntimeError, ValueError, AssertionError, ImportError, AttributeError, TypeError) as error:
            refused.append(f"{peer.name}, {case.name}: {str(error).strip().splitlines()[0] if str(error) else error!r}")
        release(device)


def release(device: torch.device) -> None:
    """Give freed memory back to the card, so that the next shape finds it in one piece."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def _peer_row(peer: Peer, case: Case, section: str, device: torch.device, copy: float) -> Row:
    prepared = peer.prepare(case, device)
    error = relative_error(prepared.output(), prepared.expected())
    timing = measure(prepared.launch, prepared.rotation, device)
    return Row(
        section=section,
        name=case.name,
        kernel=peer.name,
        precision=peer.precision,
        ev_us=timing.ev_us,
        graph_us=timing.graph_us,
        bytes_moved=prepared.bytes_moved,
        copy_percent=_percent(prepared.bytes_moved, timing.ev_us, copy),
        error=error if math.isfinite(error) else None,
        **(_facts(case) | {"preset": "", "layout": ""}),
    )


def _error(library: Library, case: Case, device: torch.device, seed: int, query_scale: float) -> float:
    step = random_step(case, device, torch.Generator(device).manual_seed(seed), query_scale)
    error = relative_error(attend_checked(library, step), attend64(step))
    release(device)
    return error


def _percent(bytes_moved: int, us: float, copy: float) -> float:
    return 100 * bytes_moved / (us * 1e-6) / copy


def _facts(case: Case) -> dict[str, Any]:
    shape: dict[str, Any] = {"batch": case.batch, "query_heads": case.query_heads, "kv_heads": case.kv_heads}
    return {**shape, "tokens": case.tokens, "preset": case.preset, "layout": case.layout}
