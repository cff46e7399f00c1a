"""Random inputs of one decode step: caches with random records, rotated so that no launch finds its data in L2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerq_export.bench.cases import PAGE_BLOCKS, Case
from innerq_export.integrations.cache import PackedCache, empty_packed_cache
from innerq_export.spec import CacheConfig
from innerq_export.spec.layout import record_parts

ROTATED_BYTES = 400_000_000
POISON = float("nan")


@dataclass(frozen=True)
class Step:
    """A cache after Append of one token per sequence, the tokens, and room for the output. Lengths: int32 [B]."""

    case: Case
    cache: PackedCache
    query_BHq1D: Tensor
    key_BHkv1D: Tensor
    value_BHkv1D: Tensor
    out_BHq1D: Tensor
    past_length_B: Tensor


def random_steps(case: Case, device: torch.device, seed: int, *, rotate: bool = True) -> list[Step]:
    """Return enough independent copies of a random step to cover 400 MB, at least two (one if not `rotate`)."""
    count = max(2, -(-ROTATED_BYTES // case.bytes_moved())) if rotate else 1
    count = 2 if device.type == "cpu" and rotate else count
    generator = torch.Generator(device).manual_seed(seed)
    return [random_step(case, device, generator) for _ in range(count)]


def random_step(case: Case, device: torch.device, generator: torch.Generator, query_scale: float = 1.0) -> Step:
    """Return a step with random codes, sane random scales, lambda in 0.5 .. 2 and a poisoned output."""
    pages = PAGE_BLOCKS if case.layout == "paged" else 0
    options: dict[str, Any] = {"dtype": torch.float16, "device": device}
    cache = empty_packed_cache(
        case.config, case.batch, case.kv_heads, case.head_dim, case.capacity_blocks, page_blocks=pages, **options
    )
    fill_records(case.config, cache.blocks, case.head_dim, generator)
    cache.window_B2HkvWD.normal_(generator=generator)
    cache.key_norm_BHkvD.uniform_(0.5, 2.0, generator=generator)
    if cache.block_table_BP is not None:
        order = torch.randperm(cache.blocks.shape[0], generator=generator, device=device)
        cache.block_table_BP.copy_(order.view_as(cache.block_table_BP))

    def normal(heads: int) -> Tensor:
        return torch.randn(case.batch, heads, 1, case.head_dim, generator=generator, **options)

    query = normal(case.query_heads) * query_scale
    past = torch.tensor(case.lengths, dtype=torch.int32, device=device) - 1
    return Step(case, cache, query, normal(case.kv_heads), normal(case.kv_heads), torch.full_like(query, POISON), past)


def fill_records(config: CacheConfig, blocks: Tensor, head_dim: int, generator: torch.Generator) -> None:
    """Fill int32 records [..., words]: random bits for codes, scales and zeros that give data of order 1.

    Scales are negative half of the time where the mode knows negative ones; symmetric groups of `hybrid` have zero 0.
    """
    blocks.random_(-(2**31), 2**31 - 1, generator=generator)
    halves = blocks.view(torch.float16)
    for name, part in record_parts(config, head_dim).items():
        kind, _, what = name.partition("_")
        if what == "codes":
            continue
        place = halves[..., part.among(2)]
        numbers = torch.empty(place.shape, dtype=torch.float16, device=place.device)
        bits, mode = (config.key_bits, config.key_mode) if kind == "key" else (config.value_bits, config.value_mode)
        if what == "zeros":
            place.copy_(numbers.normal_(generator=generator))
            if mode == "hybrid":
                place.mul_(torch.signbit(_scales(halves, config, head_dim, kind)))
            continue
        numbers.uniform_(0.5, 1.5, generator=generator).mul_(3.0 / 2**bits)
        if mode in ("symmetric_full", "hybrid"):
            numbers.mul_(torch.empty_like(numbers).bernoulli_(0.5, generator=generator) * 2 - 1)
        place.copy_(numbers)


def _scales(halves: Tensor, config: CacheConfig, head_dim: int, kind: str) -> Tensor:
    return halves[..., record_parts(config, head_dim)[f"{kind}_scales"].among(2)]
