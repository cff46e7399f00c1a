"""Check and clock of innerq_attend, builds side by side: `bench_attend.py LIBRARY... [check] [time] [more]`.

check: random records (any bits are codes), lengths around every boundary, all modes, against the fp64 of
bench/oracle.py. time, more: "ev" (medians of event pairs, queue kept full, inputs and outputs rotated over 400 MB) and
"graph" (launches replayed, rotated). Users run `innerq-export bench kernels`. Needs torch with CUDA.
"""

from __future__ import annotations

import math
import statistics
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from innerq_export.bench.oracle import history64, rows64
from innerq_export.bench.timing import copy_bandwidth, events, replayed
from innerq_export.errors import UserError
from innerq_export.integrations import views
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import Library
from innerq_export.spec import MODES, CacheConfig, record_bytes
from innerq_export.spec.layout import record_parts

DEVICE = "cuda"
TOLERANCE = {False: 2e-3, True: 2e-3 + 2**-7 / 12**0.5}  # by bf16, whose rounding of the output comes on top


@dataclass(frozen=True)
class Case:
    """One call: sequences of `past` tokens held before `tokens` new ones."""

    past: tuple[int, ...]
    head_dim: int = 128
    kv_heads: int = 8
    group: int = 4
    tokens: int = 1
    key: tuple[int, int] = (3, 1)  # bits, mode
    value: tuple[int, int] = (3, 1)
    bf16: bool = False
    page_blocks: int = 0
    capacity: int = 0
    sink: int = 32
    recent: int = 96
    fresh: tuple[int, ...] = ()

    @property
    def config(self) -> CacheConfig:
        """The cache's configuration."""
        return CacheConfig(
            key_bits=self.key[0], key_mode=MODES[self.key[1]], value_bits=self.value[0],
            value_mode=MODES[self.value[1]], sink=self.sink, recent=self.recent,
        )  # fmt: skip

    @property
    def blocks(self) -> int:
        """Room of a sequence in blocks."""
        held = max(self.past) + self.tokens
        return max(self.capacity, (held - self.sink - self.recent) // 32, 1)


class Call:
    """A case with random contents on the card, ready to be launched."""

    def __init__(self, case: Case, seed: int = 0):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        self.case, batch, d = case, len(case.past), case.head_dim
        dtype = torch.bfloat16 if case.bf16 else torch.float16
        heads, s, ring = case.kv_heads, case.tokens, case.recent + 32

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=DEVICE, dtype=torch.float32).to(dtype)

        self.parts = record_parts(case.config, d)
        words = record_bytes(case.config, d) // 4
        pages, per_page = batch, case.blocks
        self.table = None
        if case.page_blocks:
            entries, per_page = -(-case.blocks // case.page_blocks), case.page_blocks
            pages = batch * entries + 3
            order = torch.randperm(pages, generator=generator, device=DEVICE)[: batch * entries]
            self.table = order.to(torch.int32).reshape(batch, entries).contiguous()
        shape = (pages, heads, per_page, words)
        self.records = torch.randint(-(2**31), 2**31, shape, generator=generator, device=DEVICE, dtype=torch.int32)
        for name, part in self.parts.items():
            if name.endswith("codes"):
                continue
            numbers = torch.rand((*shape[:3], part.size // 2), generator=generator, device=DEVICE, dtype=torch.float16)
            numbers = (numbers * 0.2 + 0.05) * 2.0 ** (3 - (case.key if name[0] == "k" else case.value)[0])
            mode = case.key[1] if name.startswith("key") else case.value[1]
            if mode in (1, 3) or name.endswith("zeros"):
                numbers *= torch.randint(0, 2, numbers.shape, generator=generator, device=DEVICE).half() * 2 - 1
            if mode == 3 and name.endswith("zeros"):
                numbers *= torch.signbit(self.halves(name.replace("zeros", "scales")))  # symmetric groups have none
            self.halves(name)[:] = numbers
        self.window = normal(batch, 2, heads, case.sink + ring, d)
        self.lam = torch.rand((batch, heads, d), generator=generator, device=DEVICE).half() + 0.5
        self.query, self.key = normal(batch, heads * case.group, s, d), normal(batch, heads, s, d)
        self.new_value, self.out = normal(batch, heads, s, d), torch.full_like(self.query, float("nan"))
        self.past = torch.tensor(case.past, dtype=torch.int32, device=DEVICE)
        self.fresh = torch.tensor(case.fresh or [s] * batch, dtype=torch.int32, device=DEVICE)
        self.flags = torch.zeros(1, dtype=torch.int32, device=DEVICE)
        self.packed = PackedCache(case.config, self.window, self.lam, self.records, self.flags, self.table)
        self.config, self.cache = views.config_view(self.packed), views.cache_view(self.packed)
        self.args = views.attend_view(
            self.query, self.key, self.new_value, self.out, self.past, self.fresh, workspace_is_clean=True
        )

    def halves(self, name: str) -> Tensor:
        """A part of all records as fp16 numbers."""
        return self.records.view(torch.float16)[..., self.parts[name].among(2)]

    @property
    def bytes(self) -> int:
        """Bytes that must move: records of the blocks seen, window, new tokens, queries, outputs."""
        case, total = self.case, 0
        record, row = 4 * self.records.shape[-1], 2 * case.head_dim
        for past in case.past:
            blocks = max(0, (past + case.tokens - case.sink - case.recent) // 32)
            total += case.kv_heads * (blocks * record + 2 * row * (past + case.tokens - 32 * blocks))
        return total + 4 * self.out.numel()


class Attend:
    """innerq_attend of a library, with a workspace that was poisoned but for its counters."""

    def __init__(self, path: str):
        self.lib = Library(Path(path))
        self.launch = self.lib.function("innerq_attend")
        self.workspace = torch.zeros(64 << 20, dtype=torch.uint8, device=DEVICE)

    def counters(self, call: Call) -> Tensor:
        """The bytes of the workspace that must be zero before and after a launch."""
        return self.workspace[
            : 4 * len(call.case.past) * call.case.kv_heads * -(-call.case.group * call.case.tokens // 8)
        ]

    def prepare(self, call: Call) -> None:
        """Poison what a launch must not lean on."""
        self.workspace[:] = 255
        self.counters(call)[:] = 0
        call.out.fill_(float("nan"))

    def __call__(self, call: Call) -> None:
        """Launch."""
        stream = torch.cuda.current_stream().cuda_stream
        workspace = self.workspace.data_ptr(), self.workspace.numel()
        self.lib.check("innerq_attend", self.launch(call.config, call.cache, call.args, *workspace, stream))


def attend64(call: Call, only: list[tuple[int, int]] | None = None) -> dict[tuple[int, int], Tensor]:
    """Return out [group, S, D] in fp64 of the (sequence, KV head) pairs asked for."""
    case, result = call.case, {}
    for b, h in only or product(range(len(case.past)), range(case.kv_heads)):
        past, fresh = case.past[b], int(call.fresh[b])
        out = torch.zeros((case.group, case.tokens, case.head_dim), dtype=torch.float64, device=DEVICE)
        if fresh:
            held = history64(call.packed, b, past, fresh, slice(h, h + 1))
            key, value = (
                torch.cat([old, new[b, h : h + 1, :fresh].double()], dim=1)
                for old, new in zip(held, (call.key, call.new_value), strict=True)
            )
            seen = past + 1 + torch.arange(fresh, device=DEVICE)
            out[:, :fresh] = rows64(call.query[b, h * case.group : (h + 1) * case.group, :fresh], key, value, seen)
        result[b, h] = out
    return result


def error_of(lib: Attend, case: Case, only: list[tuple[int, int]] | None = None, seed: int = 0) -> float:
    """Launch once and return the largest relative L2 error of a (sequence, KV head)."""
    call = Call(case, seed)
    lib.prepare(call)
    lib(call)
    torch.cuda.synchronize()
    assert not lib.counters(call).any(), "counters not left clean"
    worst = 0.0
    for (b, h), want in attend64(call, only).items():
        got = call.out[b, h * case.group : (h + 1) * case.group].double()
        norm = float(want.norm())
        error = float((got - want).norm()) / norm if norm else float(got.abs().max())
        worst = max(worst, float("inf") if math.isnan(error) else error)
    return worst


LENGTHS = (0, 1, 31, 32, 33, 96, 127, 128, 129, 159, 160, 161, 191, 192, 500, 1023, 2047, 4100)


def cases() -> dict[str, Case]:
    """Everything `check` looks at."""
    base, found = Case(LENGTHS, kv_heads=2), {}
    presets = {"balanced": ((3, 1), (3, 1)), "compact": ((3, 1), (2, 1)), "quality": ((4, 1), (4, 1)),
               "base": ((3, 0), (3, 0)), "small": ((3, 0), (2, 0)), "hybrid": ((3, 0), (2, 3))}  # fmt: skip
    for (name, (key, value)), d in product(presets.items(), (64, 128, 256)):
        found[f"{name} D{d}"] = replace(base, key=key, value=value, head_dim=d, bf16=d == 64)
    for key, value in product(product((2, 3, 4, 8), (1, 2, 3)), ((8, 1), (3, 2), (2, 3))):
        found[f"any {key} {value}"] = replace(base, key=key, value=value, kv_heads=1)
    found["any 8 8 D256"] = replace(base, key=(8, 2), value=(8, 3), head_dim=256)
    found["any 8 8 D64"] = replace(base, key=(8, 3), value=(8, 2), head_dim=64)
    for group, s in product((1, 3, 8, 16), (1, 2, 5, 16)):
        fresh = tuple((7 * b) % (s + 1) for b in range(len(LENGTHS)))
        found[f"group {group} s {s}"] = replace(base, group=group, tokens=s, fresh=fresh)
    for group, s in ((4, 3), (4, 4), (8, 2), (3, 3), (6, 3), (8, 4), (16, 4)):
        found[f"rows {group * s}"] = replace(base, group=group, tokens=s, fresh=tuple(b % s + 1 for b in range(18)))
    for (name, (key, value)), d in product(presets.items(), (64, 128, 256)):
        fresh = tuple(b % 5 for b in range(len(LENGTHS)))
        more = replace(base, key=key, value=value, head_dim=d, bf16=d == 128, tokens=4, fresh=fresh)
        found[f"{name} D{d} 16 rows"] = more
        found[f"{name} D{d} 16 rows, pages"] = replace(more, page_blocks=3, capacity=150, bf16=False)
    for page in (1, 2, 3, 16):
        found[f"pages of {page}"] = replace(base, page_blocks=page, capacity=150)
    for sink, recent in ((0, 0), (0, 5), (7, 0), (100, 1), (5, 300)):
        found[f"sink {sink} recent {recent}"] = replace(base, sink=sink, recent=recent, tokens=4)
    found["many short"] = replace(base, past=tuple(range(0, 600, 2)))
    found["a head a warp"] = replace(base, past=(200,) * 132, kv_heads=8)
    found["one long"] = replace(base, past=(70_001,), kv_heads=1)
    for name in ("many short", "a head a warp", "one long"):
        found[f"{name}, 16 rows"] = replace(found[name], tokens=4)
    found["bf16 s 3"] = replace(base, bf16=True, tokens=3)
    return found


def check(lib: Attend) -> None:
    """Print every case that is beyond its tolerance, then their number and the worst error."""
    failures, worst = 0, 0.0
    for name, case in cases().items():
        try:
            error = error_of(lib, case)
        except UserError as refused:
            print(f"skip {name} {refused}")
            continue
        worst = max(worst, error)
        if error > TOLERANCE[case.bf16]:
            failures += 1
            print(f"FAIL {error:9.2e}  {name}", flush=True)
    print(f"check: {failures} failures, worst {worst:.2e}", flush=True)


SHAPES = {
    "8 x 32K": (63.0, Case((32_767,) * 8)),
    "32 x 16K": (118.0, Case((16_383,) * 32)),
    "1 x 128K": (37.0, Case((131_071,))),
    "1 x 32K": (18.0, Case((32_767,))),
    "8 x 8K": (24.0, Case((8_191,) * 8)),
    "1 x 128K MHA": (116.0, Case((131_071,), kv_heads=32, group=1)),
    "8 x 32K 3/2": (57.0, Case((32_767,) * 8, value=(2, 1))),
}
MORE = {
    "8 x 32K hybrid": (0.0, Case((32_767,) * 8, key=(3, 0), value=(2, 3))),
    "8 x 32K 4/4": (0.0, Case((32_767,) * 8, key=(4, 1), value=(4, 1))),
    "8 x 32K any 4/3": (0.0, Case((32_767,) * 8, key=(4, 1), value=(3, 1))),
    "8 x 32K paged 16": (63.0, Case((32_767,) * 8, page_blocks=16)),
    "8 x 32K uneven": (63.0, Case(tuple(16_383 + 32_768 * i // 7 for i in range(8)), page_blocks=16)),
    "8 x 8K uneven": (24.0, Case(tuple(4_095 + 8_192 * i // 7 for i in range(8)), page_blocks=16)),
    "8 x 32K paged 1": (63.0, Case((32_767,) * 8, page_blocks=1)),
    "8 x 32K bf16": (63.0, Case((32_767,) * 8, bf16=True)),
    "8 x 32K group 8": (0.0, Case((32_767,) * 8, group=8)),
    "8 x 32K s 2": (0.0, Case((32_767,) * 8, tokens=2)),
    "8 x 32K s 4": (0.0, Case((32_767,) * 8, tokens=4)),
    "8 x 32K s 8": (0.0, Case((32_767,) * 8, tokens=8)),
    "8 x 32K s 16": (0.0, Case((32_767,) * 8, tokens=16)),
    "8 x 32K group 8 s 2": (0.0, Case((32_767,) * 8, group=8, tokens=2)),
    "1 x 4K s 4": (0.0, Case((4_095,), tokens=4)),
    "ragged 1K..64K": (0.0, Case((1_023, 2_047, 4_095, 8_191, 16_383, 32_767, 65_535, 131_071))),
    "8 x 32K D64": (0.0, Case((32_767,) * 8, head_dim=64)),
    "8 x 32K D256": (0.0, Case((32_767,) * 8, head_dim=256)),
    "1 x 4K": (0.0, Case((4_095,))),
    "1 x 4K of 128K": (0.0, Case((4_095,), capacity=4096)),
    "64 x 512": (0.0, Case((511,) * 64)),
}


def times(lib: Attend, calls: list[Call]) -> tuple[float, float]:
    """Microseconds of a launch by events, the first round of calls left out, and by graph."""

    def launch(i: int) -> None:
        lib(calls[i])

    rotation = len(calls)
    ev = statistics.median(events(launch, rotation, 60 + rotation)[rotation:])
    return ev, replayed(launch, rotation, rotation * max(1, 40 // rotation), 5)


def clock(libs: list[Attend], shapes: dict[str, tuple[float, Case]]) -> None:
    """Print a line per shape and library: error, ev, graph, bytes, share of the copy bandwidth of this run."""
    copy = copy_bandwidth(torch.device(DEVICE)) / 1e12
    print(f"copy {copy:.3f} TB/s")
    for name, (target, case) in shapes.items():
        first = Call(case, 1)
        calls = [first] + [Call(case, i) for i in range(2, 1 + max(2, min(40, -(-400_000_000 // first.bytes))))]
        last = (len(case.past) - 1, case.kv_heads - 1)
        for i, lib in enumerate(libs):
            try:
                error = error_of(lib, case, [(0, 0), last])
            except UserError as refused:
                print(f"{name:18} #{i} {refused}")
                continue
            ev, gr = times(lib, calls)
            lib.prepare(first)
            share = calls[0].bytes / (1e-6 * gr) / 1e12 / copy
            aim = f"<= {target:5.1f}" if target else " " * 8
            print(
                f"{name:18} #{i} ev {ev:7.2f} {aim} graph {gr:7.2f}  {100 * share:5.1f}%  err {error:.1e}", flush=True
            )


if __name__ == "__main__":
    libraries = [Attend(path) for path in sys.argv[1:] if path.endswith(".so")]
    if "check" in sys.argv:
        for library in libraries:
            check(library)
    for word, shapes in (("time", SHAPES), ("more", MORE)):
        if word in sys.argv:
            clock(libraries, shapes)
