"""Clock of a decode append, builds side by side: `bench_append.py LIBRARY... [check] [time] [more]`.

check: every library's cache against the first one's, bit for bit (tests/kernels holds a library to the reference).
time, more: 8 sequences x 8 KV heads x 1 token, a block due in all sequences or in none; "ev" (medians of event pairs,
queue kept full) and "graph" (launches replayed), inputs and outputs rotated over more than 400 MB. Lengths are rotated
too ("own"), or one tensor for all calls, as the layers of a model share it ("shared"). Beside them an empty kernel and
a copy of a due block's rows, of the same run. Needs torch with CUDA.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from innerq_export.bench.timing import events, replayed
from innerq_export.integrations import views
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import Library
from innerq_export.spec import KEY_NORMS, MODES, CacheConfig, record_bytes

DEVICE = "cuda"
SETS = 256  # caches that a timing rotates through: each launch touches 1.3 MB of one of them
ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """One call: `tokens` new tokens after `past` held ones; bits and mode of keys and of values."""

    past: tuple[int, ...]
    head_dim: int = 128
    kv_heads: int = 8
    tokens: int = 1
    key: tuple[int, int] = (3, 1)
    value: tuple[int, int] = (3, 1)
    bf16: bool = False
    page_blocks: int = 0
    sink: int = 32
    recent: int = 96
    key_norm: int = 0
    ties: bool = False  # numbers of few values: magnitudes meet

    @property
    def config(self) -> CacheConfig:
        """The cache's configuration."""
        return CacheConfig(
            key_bits=self.key[0], key_mode=MODES[self.key[1]], value_bits=self.value[0],
            value_mode=MODES[self.value[1]], sink=self.sink, recent=self.recent, key_norm=KEY_NORMS[self.key_norm],
        )  # fmt: skip

    @property
    def blocks(self) -> int:
        """Room of a sequence in blocks."""
        return max(1, (max(self.past) + self.tokens - self.sink - self.recent) // 32)


class Call:
    """A case with random contents on the card."""

    def __init__(self, case: Case, seed: int, past: Tensor | None = None):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        batch, heads, d = len(case.past), case.kv_heads, case.head_dim
        dtype = torch.bfloat16 if case.bf16 else torch.float16

        def normal(*shape: int) -> Tensor:
            x = torch.randn(shape, generator=generator, device=DEVICE)
            return ((x * 2).round() if case.ties else x).to(dtype)

        words = record_bytes(case.config, d) // 4
        pages, per_page, self.table = batch, case.blocks, None
        if case.page_blocks:
            entries, per_page = -(-case.blocks // case.page_blocks), case.page_blocks
            pages = batch * entries
            order = torch.randperm(pages, generator=generator, device=DEVICE)
            self.table = order.to(torch.int32).reshape(batch, entries).contiguous()
        self.records = torch.full((pages, heads, per_page, words), -1, dtype=torch.int32, device=DEVICE)
        self.window = normal(batch, 2, heads, case.sink + case.recent + 32, d)
        self.lam = torch.rand((batch, heads, d), generator=generator, device=DEVICE).half() + 0.5
        self.key, self.value = (normal(batch, heads, case.tokens, d) for _ in range(2))
        self.past = past if past is not None else torch.tensor(case.past, dtype=torch.int32, device=DEVICE)
        self.flags = torch.zeros(1 << 15, dtype=torch.int32, device=DEVICE)
        packed = PackedCache(case.config, self.window, self.lam, self.records, self.flags, self.table)
        self.config, self.cache = views.config_view(packed), views.cache_view(packed)
        self.args = views.append_view(self.key, self.value, self.past, None)


class Append:
    """innerq_append of a library."""

    def __init__(self, path: str):
        self.name, self.lib = Path(path).stem, Library(Path(path))
        self.launch = self.lib.function("innerq_append")

    def __call__(self, call: Call) -> None:
        """Launch."""
        stream = torch.cuda.current_stream().cuda_stream
        self.lib.check("innerq_append", self.launch(call.config, call.cache, call.args, None, 0, stream))


def cases() -> dict[str, Case]:
    """Everything `check` looks at."""
    base, found = Case((*range(120, 200, 3), 0, 31, 95, 127, 159, 159, 191, 1023, 4095), kv_heads=2), {}
    for bits, mode, d in product((2, 3, 4, 8), range(4), (64, 128, 256)):
        case = replace(base, key=(bits, mode), value=(bits, (mode + 1) % 4), head_dim=d, tokens=2)
        found[f"{bits} {mode} D{d}"] = case
        found[f"{bits} {mode} D{d} bf16"] = replace(case, bf16=True, ties=True, tokens=1)
        found[f"{bits} {mode} D{d} no norm"] = replace(case, key_norm=2, ties=True, tokens=32)
    for page, sink, recent in product((0, 1, 3), (0, 5, 32), (0, 1, 31, 77)):
        case = replace(base, page_blocks=page, sink=sink, recent=recent, value=(2, 3))
        found |= {f"page {page} sink {sink} recent {recent} s {s}": replace(case, tokens=s) for s in (1, 5, 32)}
    return found


def check(libraries: list[Append]) -> None:
    """Print where a library's cache differs from the first one's."""
    failures = 0
    for name, case in cases().items():
        calls = [Call(case, 7) for _ in libraries]
        for library, call in zip(libraries, calls, strict=True):
            library(call)
        for library, call in zip(libraries, calls, strict=True):
            for part in ("records", "window", "lam"):
                ours, first = (getattr(x, part).view(torch.int16) for x in (call, calls[0]))
                if wrong := int((ours != first).sum()):
                    failures += 1
                    print(f"FAIL {library.name}: {name}: {wrong} of {ours.numel()} halves of {part}")
    print(f"check: {len(cases())} cases, {failures} failures", flush=True)


SHAPES = {"flush": Case((191,) * 8), "no flush": Case((190,) * 8)}
MORE = {
    "flush hybrid": Case((191,) * 8, key=(3, 0), value=(2, 3)),
    "flush 4/4": Case((191,) * 8, key=(4, 1), value=(4, 1)),
    "flush bf16": Case((191,) * 8, bf16=True),
    "flush paged": Case((191,) * 8, page_blocks=16),
    "flush D64": Case((191,) * 8, head_dim=64),
    "flush D256": Case((191,) * 8, head_dim=256),
    "flush B1": Case((191,)),
    "flush B32": Case((191,) * 32),
}


def nothing(_: Call) -> None:
    """Launch a kernel of one thread that returns at once."""
    torch.cuda._sleep(0)


def copied(call: Call) -> None:
    """Copy as many rows as a due block has within the window: what the reading alone costs a kernel of torch's."""
    call.window[:, :, :, 64:96].copy_(call.window[:, :, :, 32:64])


def of(launch: Callable[[Call], object], calls: list[Call]) -> Callable[[int], object]:
    """Return the launch of the i-th call."""
    return lambda i: launch(calls[i])


def clock(libraries: list[Append], shapes: dict[str, Case]) -> None:
    """Print a line per shape, lengths and library; libraries take turns, so that a drift of the card hits all."""
    for name, case in shapes.items():
        calls = [Call(case, i) for i in range(SETS)]
        for lengths in ("own", "shared"):
            if lengths == "shared":
                for call in calls:
                    call.args.past_length_B = calls[0].past.data_ptr()
            launches: dict[str, Callable[[Call], object]] = {
                "(nothing)": nothing,
                "(copy)": copied,
                **{library.name: library for library in libraries},
            }
            took: dict[str, list[float]] = {key: [] for key in launches}
            for _ in range(ROUNDS):
                for key, launch in launches.items():
                    took[key].append(statistics.median(events(of(launch, calls), SETS, SETS // 2)))
                calls = calls[SETS // 2 :] + calls[: SETS // 2]
            for key, launch in launches.items():
                ev = statistics.median(took[key])
                print(f"{name:12} {lengths:6} {key:12} ev {ev:5.2f} {min(took[key]):5.2f}", end=" ")
                print(f"graph {replayed(of(launch, calls), SETS, SETS, 5):5.2f}", flush=True)


if __name__ == "__main__":
    libraries = [Append(path) for path in sys.argv[1:] if path.endswith(".so")]
    if "check" in sys.argv:
        check(libraries)
    for word, shapes in (("time", SHAPES), ("more", MORE)):
        if word in sys.argv:
            clock(libraries, shapes)
