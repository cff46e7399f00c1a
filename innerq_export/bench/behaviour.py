"""What decode attention and append must not do: follow the capacity, pay for the longest sequence, take long to append.

Each measure yields rows of section "behaviour"; `note` says what to compare a row with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from innerq_export.bench.appended import wrong_words
from innerq_export.bench.cases import Case
from innerq_export.bench.decode import our_row, release
from innerq_export.bench.inputs import Step, random_step
from innerq_export.bench.ours import append_launch
from innerq_export.bench.report import Row
from innerq_export.bench.timing import measure
from innerq_export.integrations.library import Library
from innerq_export.spec import GROUP_SIZE

SECTION = "behaviour"
APPEND_SETS = 256


def attend_rows(library: Library, preset: str, device: torch.device, seed: int, copy: float) -> Iterator[Row]:
    """Yield the pairs: little in large room against little in little room; ragged lengths against equal ones."""
    tokens, room = (4096, 131072) if device.type == "cuda" else (300, 600)
    held = Case(preset, 1, 32, 8, tokens)
    pairs = [
        (held, "room for exactly that"),
        (dataclasses.replace(held, capacity=room), f"room for {room} tokens: at most 15% longer than the row above"),
        (Case(preset, 8, 32, 8, 4 * tokens), "equal lengths"),
        (Case(preset, 8, 32, 8, 4 * tokens, layout="paged"), "as many tokens, half to 1.5 times as long, paged"),
        (Case(preset, 8, 32, 8, 6 * tokens), "all as long as the longest: what the ragged batch must not cost"),
    ]
    for case, note in pairs:
        row = our_row(library, case, SECTION, device, seed, copy)
        yield dataclasses.replace(row, name=f"attend {row.name}", note=note)
        release(device)


def append_rows(library: Library, preset: str, device: torch.device, seed: int, copy: float) -> Iterator[Row]:
    """Yield decode append, B = 8, 8 KV heads, one token each: in a step that moves a block and in one that does not.

    `error` is the number of words in which a fresh cache then differs from the reference's.
    """
    generator = torch.Generator(device).manual_seed(seed)
    config = Case(preset, 8, 32, 8, 1).config
    flush_at = config.sink + config.recent + 2 * GROUP_SIZE
    for tokens, what in ((flush_at, "flush due in every sequence"), (flush_at - 1, "no flush")):
        case = Case(preset, 8, 32, 8, tokens, capacity=flush_at)
        error = _append_error(library, random_step(case, device, generator))
        count = APPEND_SETS if device.type == "cuda" else 2
        steps = [random_step(case, device, generator) for _ in range(count)]
        timing = measure(append_launch(library, steps), count, device)
        moved = _append_bytes(steps[0], flush=tokens == flush_at)
        percent = 100 * moved / (timing.ev_us * 1e-6) / copy
        shape = {"batch": 8, "query_heads": 32, "kv_heads": 8, "tokens": tokens, "preset": preset}
        name, note = f"append 8 x 1 token, {what}", f"one launch; {error:.0f} words differ from the reference's"
        times = (timing.ev_us, timing.graph_us, moved, percent, error)
        yield Row(SECTION, name, "innerq", preset, *times, **shape, note=note)  # type: ignore[arg-type]
        release(device)


def _append_error(library: Library, step: Step) -> float:
    rows, ones = (step.key_BHkv1D, step.value_BHkv1D), torch.ones_like(step.past_length_B)
    return float(wrong_words(library, step.cache, rows, step.past_length_B, ones))


def _append_bytes(step: Step, *, flush: bool) -> int:
    """Bytes that one append must move: the tokens in and out; with a flush a block of the window in, a record out."""
    case = step.case
    row = case.batch * case.kv_heads * case.head_dim * 2
    record = step.cache.blocks.shape[-1] * 4 * case.batch * case.kv_heads
    return 4 * row + (2 * GROUP_SIZE * row + record if flush else 0)
