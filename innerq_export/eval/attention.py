"""Attention of many tokens at once, every query seeing the cache as it would in decoding token by token.

What comes before the queries is the prompt, one call in full precision. Each query is a call of its own and sees older
tokens as its scheme holds them at that moment (SPEC section 7). Equal to the stepwise reference up to sums in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from innerq_export.reference.scheme import Hold, Scheme

CHUNK, CARD_CHUNK, CARD_SCORES = 256, 1024, 1 << 28
"""Queries of one step; on a card more, because steps cost starts of kernels there, up to so many scores (1 GiB)."""

_NOTHING = Hold(sink=0, recent=1 << 40, flush=1)


def attend_in_full(query_BHqTD: Tensor, key_BHkvTD: Tensor, value_BHkvTD: Tensor, scale: float) -> Tensor:
    """Return causal attention [B, Hq, T, D] of all tokens with nothing quantised."""
    group = query_BHqTD.shape[1] // key_BHkvTD.shape[1]
    key, value = (x.repeat_interleave(group, dim=1) for x in (key_BHkvTD, value_BHkvTD))
    return scaled_dot_product_attention(query_BHqTD, key, value, is_causal=True, scale=scale)


def attend_decoding(
    scheme: Scheme | None, query_BHqCD: Tensor, key_BHkvTD: Tensor, value_BHkvTD: Tensor, scale: float
) -> Tensor:
    """Return the attention [B, Hq, C, D] of the last C of T tokens, decoded one by one after a prompt of T - C.

    `scheme` None: a full-precision cache.
    """
    tokens, rows = key_BHkvTD.shape[2], query_BHqCD.shape[2]
    prompt = tokens - rows
    read = scheme.read_back(key_BHkvTD, value_BHkvTD, prompt) if scheme else (key_BHkvTD, value_BHkvTD)
    holds = (scheme.key_hold, scheme.value_hold) if scheme else (_NOTHING, _NOTHING)
    outputs, step = [], _step(query_BHqCD, tokens)
    for start in range(prompt, tokens, step):
        stop = min(start + step, tokens)
        key, value = (
            _Mixed.of(hold, full[:, :, :stop], held[:, :, :stop], start)
            for hold, full, held in zip(holds, (key_BHkvTD, value_BHkvTD), read, strict=True)
        )
        outputs.append(_chunk(query_BHqCD[:, :, start - prompt : stop - prompt] * scale, key, value))
    return torch.cat(outputs, dim=2)


def _step(query_BHqCD: Tensor, tokens: int) -> int:
    if not query_BHqCD.is_cuda:
        return CHUNK
    sequences, heads = query_BHqCD.shape[:2]
    return max(1, min(CARD_CHUNK, CARD_SCORES // (sequences * heads * tokens)))


@dataclass(frozen=True)
class _Mixed:
    """Keys or values of T tokens as the last C queries read them.

    `most_TD` holds for all of them, but in columns `band`: there it is as read back, which only the queries of
    `quantised_CU` see; the others see `most_TD` + `missing_UD`.
    """

    most_TD: Tensor
    missing_UD: Tensor
    band: slice
    quantised_CU: Tensor

    @classmethod
    def of(cls, hold: Hold, full_TD: Tensor, held_TD: Tensor, start: int) -> _Mixed:
        """Mix for the queries of tokens `start` to T - 1."""
        tokens = full_TD.shape[2]
        query_C = torch.arange(start, tokens, device=full_TD.device)
        first, last = (max(hold.sink, min(int(hold.first_full(torch.tensor(t))), t)) for t in (start, tokens - 1))
        band = slice(first, max(first, last))
        token_U = torch.arange(band.start, band.stop, device=full_TD.device)
        parts = [full_TD[:, :, : hold.sink], held_TD[:, :, hold.sink : band.stop], full_TD[:, :, band.stop :]]
        missing_UD = full_TD[:, :, band] - held_TD[:, :, band]
        return cls(torch.cat(parts, dim=2), missing_UD, band, hold.quantised(query_C, token_U))


def _chunk(query_BHqCD: Tensor, key: _Mixed, value: _Mixed) -> Tensor:
    """Return the attention of the last C tokens; the queries are scaled."""
    heads, rows = query_BHqCD.shape[1:3]
    group = heads // key.most_TD.shape[1]
    query_BHkvXD = query_BHqCD.unflatten(1, (-1, group)).flatten(2, 3)
    score = query_BHkvXD @ key.most_TD.mT
    unquantised_XU = ~key.quantised_CU.repeat(group, 1)
    score[..., key.band] += (query_BHkvXD @ key.missing_UD.mT) * unquantised_XU
    future_CC = torch.ones(rows, rows, dtype=torch.bool, device=score.device).triu(1)
    score[..., -rows:].masked_fill_(future_CC.repeat(group, 1), -torch.inf)
    weight = score.softmax(-1)
    unquantised_XU = ~value.quantised_CU.repeat(group, 1)
    output = weight @ value.most_TD + (weight[..., value.band] * unquantised_XU) @ value.missing_UD
    return output.unflatten(2, (-1, rows)).flatten(1, 2)
