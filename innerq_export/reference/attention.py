"""Attend: softmax attention over a quantised cache (SPEC section 7), as plain matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from innerq_export.errors import UserError
from innerq_export.reference.blocks import dequantise_blocks
from innerq_export.reference.cache import Cache, slot_of
from innerq_export.spec import GROUP_SIZE


def dequantised_history(
    cache: Cache, past_length_B: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return keys and values [B, Hkv, T, D] of tokens 0..T-1 as the cache holds them, T = max(past_length_B).

    Quantised tokens come dequantised (keys times lambda), the others from the window. What lies at or beyond
    `past_length_B[b]` is zero. `past_length_B` is at most the cache's length: the rest are tokens of the running call.
    """
    blocks_held_B = torch.tensor([cache.blocks_held(b) for b in range(len(cache.length_B))])
    token_T = torch.arange(int(past_length_B.max()))
    block_token_T = (token_T - cache.config.sink).clamp(min=0)
    quantised_BT = (token_T >= cache.config.sink) & (block_token_T < GROUP_SIZE * blocks_held_B[:, None])
    held_BT = token_T < past_length_B[:, None]
    used = cache.blocks.part(slice(None), slice(None), slice(0, int(blocks_held_B.max())))
    key_blocks, value_blocks = dequantise_blocks(cache.config, used)
    key_blocks = key_blocks.to(dtype) * cache.key_norm_BHkvD.to(dtype)[:, :, None, None]
    window = cache.window_B2HkvWD[:, :, :, slot_of(cache.config, token_T)].to(dtype)
    return (
        _choose(window[:, 0], key_blocks, block_token_T, quantised_BT, held_BT),
        _choose(window[:, 1], value_blocks.to(dtype), block_token_T, quantised_BT, held_BT),
    )


def attend(
    cache: Cache,
    query_BHqSD: Tensor,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor,
    scale: float | None = None,
) -> Tensor:
    """Return [B, Hq, S, D] in the query's dtype: token past + i sees all tokens up to itself; padding rows are 0.

    `cache` is the cache after Append of these keys and values, which are seen in full precision. fp32 arithmetic,
    fp64 for an fp64 query. `scale` is 1 / sqrt(D) unless given. Query head h uses KV head h // (Hq / Hkv).
    """
    _check(cache, query_BHqSD, key_BHkvSD, past_length_B, new_length_B)
    history = dequantised_history(cache, past_length_B, _arithmetic(query_BHqSD))
    return attend_over(history, query_BHqSD, key_BHkvSD, value_BHkvSD, past_length_B, new_length_B, scale)


def attend_over(
    history: tuple[Tensor, Tensor],
    query_BHqSD: Tensor,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor,
    scale: float | None = None,
) -> Tensor:
    """Return what `attend` returns, given the `dequantised_history` of its cache."""
    dtype = _arithmetic(query_BHqSD)
    old_key, old_value = (tensor.to(dtype) for tensor in history)
    key_BHkvTD = torch.cat([old_key, key_BHkvSD.to(dtype)], dim=2)
    value_BHkvTD = torch.cat([old_value, _without_padding(value_BHkvSD.to(dtype), new_length_B)], dim=2)
    group = query_BHqSD.shape[1] // key_BHkvSD.shape[1]
    query_BHkvgSD = query_BHqSD.to(dtype).unflatten(1, (-1, group))
    factor = query_BHqSD.shape[-1] ** -0.5 if scale is None else scale
    score = query_BHkvgSD @ key_BHkvTD[:, :, None].transpose(-1, -2) * factor
    visible_BST = _visible(past_length_B, old_key.shape[2], query_BHqSD.shape[2])
    weight = score.masked_fill(~visible_BST[:, None, None], -torch.inf).softmax(-1)
    output = weight @ value_BHkvTD[:, :, None]
    return _without_padding(output.flatten(1, 2), new_length_B).to(query_BHqSD.dtype)


def _arithmetic(query: Tensor) -> torch.dtype:
    return torch.float64 if query.dtype == torch.float64 else torch.float32


def _choose(
    window_BHkvTD: Tensor, blocks_BHkvN32D: Tensor, block_token_T: Tensor, quantised_BT: Tensor, held_BT: Tensor
) -> Tensor:
    """Return block rows where a token is quantised, window rows elsewhere, 0 where it is not held."""
    rows = blocks_BHkvN32D.flatten(2, 3)
    if rows.shape[2] == 0:
        return window_BHkvTD * held_BT[:, None, :, None]
    rows = rows[:, :, block_token_T.clamp(max=rows.shape[2] - 1)]
    chosen = torch.where(quantised_BT[:, None, :, None], rows, window_BHkvTD)
    return torch.where(held_BT[:, None, :, None], chosen, 0.0)


def _visible(past_length_B: Tensor, history: int, new: int) -> Tensor:
    """Return bool [B, S, T]: which of history ++ new tokens each new token sees."""
    old_BT = torch.arange(history) < past_length_B[:, None]
    causal_SS = torch.arange(new)[:, None] >= torch.arange(new)
    batch = len(past_length_B)
    return torch.cat([old_BT[:, None].expand(-1, new, -1), causal_SS.expand(batch, -1, -1)], dim=-1)


def _without_padding(x_BHSD: Tensor, new_length_B: Tensor) -> Tensor:
    """Return x with padding rows set to 0, whatever they held: a weight of 0 times NaN would not be 0."""
    real_BS = torch.arange(x_BHSD.shape[2]) < new_length_B[:, None]
    return torch.where(real_BS[:, None, :, None], x_BHSD, 0.0)


def _check(cache: Cache, query: Tensor, key: Tensor, past_length_B: Tensor, new_length_B: Tensor) -> None:
    batch, kv_heads, new, head_dim = key.shape
    heads = query.shape[1]
    if tuple(query.shape) != (batch, heads, new, head_dim) or heads % kv_heads:
        expected = f"[{batch}, multiple of {kv_heads}, {new}, {head_dim}]"
        raise UserError("attend: shape of 'query'", expected=expected, got=list(query.shape))
    lengths = (past_length_B + new_length_B).tolist()
    if lengths != cache.length_B.tolist():
        raise UserError(
            "attend: past_length + new_length",
            expected=f"{cache.length_B.tolist()} (what the cache holds)",
            got=lengths,
            fix="pass the cache that append returned for these keys and values",
        )
