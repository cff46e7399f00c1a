"""What is measured: shapes of decode attention and the time to reach for each on one H200."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from innerq_export.spec import PRESETS, CacheConfig, blocks_of, preset, record_bytes

HALF_BYTES = 2
PAGE_BLOCKS = 16


@dataclass(frozen=True)
class Case:
    """One decode step: each of `batch` sequences attends with one new token, which is its `tokens`-th on average.

    `layout`: "plain" is the contiguous array with equal lengths, "paged" a pool of pages in random order with lengths
    from half to one and a half times `tokens`. `capacity` 0 means room for exactly what is held. `reach_us`: the time
    per launch that the project set out to reach on one H200, by events.
    """

    preset: str
    batch: int
    query_heads: int
    kv_heads: int
    tokens: int
    head_dim: int = 128
    layout: str = "plain"
    capacity: int = 0
    reach_us: float | None = None

    @property
    def config(self) -> CacheConfig:
        """The cache configuration of the preset."""
        return preset(self.preset)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence with the new one in; they sum to batch x tokens."""
        if self.layout == "plain" or self.batch == 1:
            return [self.tokens] * self.batch
        half = max(1, self.tokens // 2)
        return [half + self.tokens * b // (self.batch - 1) for b in range(self.batch)]

    @property
    def name(self) -> str:
        """Short name for tables: batch x tokens, heads and what differs from the usual."""
        unit = f"{self.tokens // 1024}K" if self.tokens % 1024 == 0 else str(self.tokens)
        extra = [self.layout] if self.layout != "plain" else []
        extra += [f"D {self.head_dim}"] if self.head_dim != 128 else []
        return " ".join([f"{self.batch} x {unit}", f"{self.query_heads}/{self.kv_heads}", *extra])

    @property
    def capacity_blocks(self) -> int:
        """Blocks that every sequence has room for."""
        return blocks_of(self.config, self.capacity or max(self.lengths))

    def bytes_moved(self) -> int:
        """Bytes that a launch must move: records, window tokens in full precision, lambda, new tokens and outputs."""
        row = self.kv_heads * self.head_dim * HALF_BYTES
        total = self.batch * (row + 2 * row + 2 * self.query_heads * self.head_dim * HALF_BYTES)
        for length in self.lengths:
            blocks = blocks_of(self.config, length)
            total += blocks * self.kv_heads * record_bytes(self.config, self.head_dim)
            total += 2 * (length - 1 - 32 * blocks) * row
        return total

    def plain_bytes_moved(self, element_bytes: int = HALF_BYTES) -> int:
        """Bytes that attention over an unquantised cache of these lengths must move."""
        cache = sum(self.lengths) * 2 * self.kv_heads * self.head_dim * element_bytes
        return cache + self.batch * 2 * self.query_heads * self.head_dim * HALF_BYTES


_REACH = (
    (8, 32, 8, 32768, 63.0),
    (32, 32, 8, 16384, 118.0),
    (1, 32, 8, 131072, 37.0),
    (1, 32, 8, 32768, 18.0),
    (8, 32, 8, 8192, 24.0),
    (1, 32, 32, 131072, 116.0),
)
_REACH_SMALL_VALUES = {"compact": 57.0, "small": 57.0}


def table_cases() -> list[Case]:
    """The shapes with a time to reach: `balanced` and `base`, plain and paged, then the other presets at 8 x 32K."""
    shapes = [Case("balanced", b, hq, hkv, t, reach_us=us) for b, hq, hkv, t, us in _REACH]
    shapes += [dataclasses.replace(case, layout="paged") for case in shapes]
    shapes += [dataclasses.replace(case, preset="base") for case in shapes if case.layout == "plain"]
    others = [name for name in PRESETS if name not in ("balanced", "base")]
    return shapes + [Case(name, 8, 32, 8, 32768, reach_us=_REACH_SMALL_VALUES.get(name)) for name in others]


def growth_cases(presets: tuple[str, ...]) -> list[Case]:
    """One sequence from 4K to 1M tokens."""
    return [Case(name, 1, 32, 8, 4096 << power) for name in presets for power in range(9)]


def sweep_cases(presets: tuple[str, ...]) -> list[Case]:
    """Batch x heads x tokens x presets, as far as 2^20 tokens in all."""
    heads = ((32, 8), (32, 32), (64, 8))
    grid = itertools.product(presets, (1, 8, 32), heads, (4096, 32768, 131072))
    return [Case(name, b, hq, hkv, t) for name, b, (hq, hkv), t in grid if b * t <= 1 << 20]


def smoke_cases(presets: tuple[str, ...]) -> list[Case]:
    """Tiny shapes that run in a second on a CPU: every code path, no figure worth having."""
    shapes = ((2, 4, 2, 300, "plain"), (2, 4, 2, 300, "paged"))
    return [Case(name, b, hq, hkv, t, head_dim=64, layout=how) for name in presets for b, hq, hkv, t, how in shapes]
