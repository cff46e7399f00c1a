"""Attention of many tokens at once, every query seeing the cache as it would in decoding token by token.

What comes before the queries is the prompt, one call in full precision. Each query is a call of its own and sees older
tokens as its scheme holds them at that moment (SPEC section 7). Equal to the stepwise reference up to sums in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from innerq_export.reference.scheme import Scheme

CHUNK = 256


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
    outputs = []
    for start in range(prompt, tokens, CHUNK):
        stop = min(start + CHUNK, tokens)
        full = (key_BHkvTD[:, :, :stop], value_BHkvTD[:, :, :stop])
        held = (read[0][:, :, :stop], read[1][:, :, :stop])
        outputs.append(_chunk(scheme, query_BHqCD[:, :, start - prompt : stop - prompt], full, held, scale))
    return torch.cat(outputs, dim=2)


def _chunk(
    scheme: Scheme | None, query_BHqCD: Tensor, full: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    """Return the attention of the last C tokens over keys and values as they are (`full`) and as read back (`held`)."""
    heads, rows = query_BHqCD.shape[1:3]
    kv_heads, tokens = full[0].shape[1:3]
    query_BHkvXD = query_BHqCD.unflatten(1, (kv_heads, -1)).flatten(2, 3)
    token_T = torch.arange(tokens, device=query_BHqCD.device)
    query_C = token_T[-rows:]
    repeat = (heads // kv_heads, 1)
    future_XT = (token_T > query_C[:, None]).repeat(repeat)
    score = query_BHkvXD @ full[0].mT
    if scheme:
        quantised_XT = scheme.key_hold.quantised(query_C, token_T).repeat(repeat)
        score = torch.where(quantised_XT, query_BHkvXD @ held[0].mT, score)
    weight = (score * scale).masked_fill_(future_XT, -torch.inf).softmax(-1)
    output = 0.0
    if scheme:
        quantised_XT = scheme.value_hold.quantised(query_C, token_T).repeat(repeat)
        output = (weight * quantised_XT) @ held[1]
        weight = weight.masked_fill_(quantised_XT, 0.0)
    return (output + weight @ full[1]).unflatten(2, (-1, rows)).flatten(1, 2)
