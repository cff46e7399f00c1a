"""What attention must give, in fp64 on any device, from the very records that the kernels read.

Independent of the kernels and of the reference's tensors: it reads records by the index tables of spec/layout.py and
computes SPEC sections 4 and 7 in torch, a sequence at a time so that the largest caches fit on the card.
"""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export.bench.inputs import Step
from innerq_export.integrations.cache import PackedCache
from innerq_export.spec import GROUP_SIZE, CacheConfig, blocks_of
from innerq_export.spec.layout import code_bits, key_scale_places, record_parts, value_scale_places

TOKENS_AT_ONCE = 1 << 20


def attend64(step: Step) -> Tensor:
    """Return [B, Hq, 1, D] in fp64, as many KV heads at a time as fit into memory whatever the length."""
    kv_heads, group = step.case.kv_heads, step.case.query_heads // step.case.kv_heads
    rows = []
    for b, past in enumerate(step.past_length_B.tolist()):
        at_once = max(1, min(kv_heads, TOKENS_AT_ONCE // (past + 1)))
        for first in range(0, kv_heads, at_once):
            heads = slice(first, min(kv_heads, first + at_once))
            key, value = history64(step.cache, b, past, 1, heads)
            key = torch.cat([key, step.key_BHkv1D[b, heads].double()], dim=1)
            value = torch.cat([value, step.value_BHkv1D[b, heads].double()], dim=1)
            rows.append(plain_attend64(step.query_BHq1D[b, heads.start * group : heads.stop * group], key, value))
    return torch.cat(rows).view(step.query_BHq1D.shape)


def plain_attend64(query_Hq1D: Tensor, key_HkvTD: Tensor, value_HkvTD: Tensor) -> Tensor:
    """Return softmax(q K / sqrt(D)) V [Hq, 1, D] in fp64 of one token that sees all."""
    return rows64(query_Hq1D, key_HkvTD, value_HkvTD, torch.tensor([key_HkvTD.shape[1]]))


def rows64(query_HqRD: Tensor, key_HkvTD: Tensor, value_HkvTD: Tensor, seen_R: Tensor) -> Tensor:
    """Return the attention [Hq, R, D] in fp64 of rows that see the first `seen_R` tokens; a KV head at a time."""
    group, total = query_HqRD.shape[0] // key_HkvTD.shape[0], key_HkvTD.shape[1]
    unseen_RT = torch.arange(total, device=query_HqRD.device) >= seen_R.to(query_HqRD.device)[:, None]
    heads = []
    for head, query_gRD in enumerate(query_HqRD.double().split(group)):
        score_gRT = query_gRD @ key_HkvTD[head].double().T * query_HqRD.shape[-1] ** -0.5
        heads.append(score_gRT.masked_fill_(unseen_RT, -torch.inf).softmax(-1) @ value_HkvTD[head].double())
    return torch.cat(heads)


def history64(cache: PackedCache, b: int, past: int, new: int, heads: slice) -> tuple[Tensor, Tensor]:
    """Return keys and values [heads, past, D] in fp64 of sequence b, whose cache holds past + new tokens.

    Blocks may have taken new tokens too; those are left out.
    """
    config, window = cache.config, cache.window_B2HkvWD[b, :, heads].double()
    blocks = blocks_of(config, past + new)
    key_HkvTD, value_HkvTD = dequantise64(config, _records(cache, b, blocks, heads), window.shape[-1])
    key_HkvTD = key_HkvTD * cache.key_norm_BHkvD[b, heads, None].double()
    token = torch.arange(past, device=window.device)
    ring = config.recent + GROUP_SIZE
    slot = torch.where(token < config.sink, token, config.sink + (token - config.sink) % ring)
    held = (token < config.sink) | (token >= config.sink + GROUP_SIZE * blocks)
    early, late = slot[token < config.sink], slot[(token >= config.sink) & held]
    key = torch.cat([window[0, :, early], key_HkvTD, window[0, :, late]], dim=1)
    value = torch.cat([window[1, :, early], value_HkvTD, window[1, :, late]], dim=1)
    return key[:, :past], value[:, :past]


def dequantise64(config: CacheConfig, records_HkvNw: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return keys (divided by lambda) and values [Hkv, 32 N, D] in fp64 of int32 records [Hkv, N, words]."""
    numbers = {}
    halves = records_HkvNw.view(torch.float16)
    for name, part in record_parts(config, head_dim).items():
        kind, _, what = name.partition("_")
        if what == "codes":
            words = records_HkvNw[..., part.among(4)]
            bits = config.key_bits if kind == "key" else config.value_bits
            numbers[name] = _codes(words, kind, bits, head_dim)
        else:
            places = key_scale_places(head_dim) if kind == "key" else value_scale_places(head_dim)
            index = torch.as_tensor(places, device=halves.device)
            numbers[name] = halves[..., part.among(2)][..., index].double()
    key_groups = numbers["key_codes"].unflatten(-1, (-1, GROUP_SIZE))
    key = _values(key_groups, numbers["key_scales"][..., None], _zero(numbers, "key"), config.key_bits, config.key_mode)
    scale, zero = numbers["value_scales"][..., None, :], _zero(numbers, "value")
    value = _values(numbers["value_codes"], scale, zero, config.value_bits, config.value_mode)
    return key.flatten(-2).flatten(1, 2), value.flatten(1, 2)


def _zero(numbers: dict[str, Tensor], kind: str) -> Tensor | None:
    zero = numbers.get(f"{kind}_zeros")
    if zero is None:
        return None
    return zero[..., None] if kind == "key" else zero[..., None, :]


def _values(stored: Tensor, scale: Tensor, zero: Tensor | None, bits: int, mode: str) -> Tensor:
    """SPEC section 4, last column; `stored` is the code as the record has it, 0 .. 2^bits - 1, in fp64."""
    symmetric = (stored - 2 ** (bits - 1)) * scale
    if mode.startswith("symmetric"):
        return symmetric
    assert zero is not None
    asymmetric = stored * scale.abs() + zero
    return asymmetric if mode == "asymmetric" else torch.where(torch.signbit(scale), asymmetric, symmetric)


def _codes(words: Tensor, kind: str, bits: int, head_dim: int) -> Tensor:
    """Return stored codes [..., 32, D] as fp64."""
    stored = torch.zeros((), dtype=torch.int32, device=words.device)
    for i, places in enumerate(torch.as_tensor(code_bits(kind, bits, head_dim), device=words.device)):
        word, bit = places // 32, (places % 32).to(torch.int32)
        stored = stored + (((words[..., word] >> bit) & 1) << i)
    return stored.double()


def _records(cache: PackedCache, b: int, blocks: int, heads: slice) -> Tensor:
    """Return sequence b's first records [heads, blocks, words], gathered from its pages."""
    if cache.block_table_BP is None:
        return cache.blocks[b, heads, :blocks]
    pages = cache.blocks[cache.block_table_BP[b].long(), heads]
    return pages.transpose(0, 1).flatten(1, 2)[:, :blocks].contiguous()
