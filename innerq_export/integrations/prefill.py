"""Attention of a long chunk: torch's flash kernels, over blocks that are dequantised once when tokens came before."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from innerq_export.integrations import calls
from innerq_export.integrations.cache import PackedCache
from innerq_export.integrations.library import Library


def prefill(
    library: Library,
    cache: PackedCache,
    query_BHqSD: Tensor,
    key_BHkvSD: Tensor,
    value_BHkvSD: Tensor,
    past_length_B: Tensor,
    new_length_B: Tensor,
    scale: float = 0.0,
) -> Tensor:
    """Return the attention [B, Hq, S, D] of any number of new tokens that `append` has written already.

    Contract of SPEC section 7, padding rows 0. Reads the lengths on the host: that waits for the device once.
    """
    pasts, news = torch.stack((past_length_B, new_length_B)).tolist()
    ragged, factor = min(news) < query_BHqSD.shape[2], scale or None
    new = (key_BHkvSD, value_BHkvSD)
    if ragged:
        new = (_without_padding(key_BHkvSD, new_length_B), _without_padding(value_BHkvSD, new_length_B))
    if max(pasts) == 0:
        out = _causal(query_BHqSD, *new, factor)
    else:
        tokens = max(pasts) + query_BHqSD.shape[2]
        held = calls.dequantise(library, cache, past_length_B + new_length_B, tokens)
        out = _over_history(query_BHqSD, new, held, pasts, factor)
    return _without_padding(out, new_length_B) if ragged else out


def _without_padding(x_BHSD: Tensor, new_length_B: Tensor) -> Tensor:
    """Return x with the rows behind each sequence's new tokens 0: garbage there would pass through 0 times NaN."""
    real_BS = torch.arange(x_BHSD.shape[2], device=x_BHSD.device) < new_length_B[:, None]
    return torch.where(real_BS[:, None, :, None], x_BHSD, 0.0)


def _over_history(
    query_BHqSD: Tensor, new: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], pasts: list[int], scale: float | None
) -> Tensor:
    """Attend over `held` [B, Hkv, T, D], in which the new rows, dequantised in part, are overwritten in place.

    One call for sequences of equal history, else one call each: flash takes no mask, only "the last S rows".
    """
    batch, rows = len(pasts), []
    equal = [(slice(0, batch), pasts[0])] if len(set(pasts)) == 1 else None
    for which, past in equal or [(slice(b, b + 1), past) for b, past in enumerate(pasts)]:
        key, value = (h[which, :, : past + query_BHqSD.shape[2]] for h in held)
        for rows_held, rows_new in zip((key, value), new, strict=True):
            rows_held[:, :, past:] = rows_new[which]
        rows.append(_causal(query_BHqSD[which], key, value, scale))
    return torch.cat(rows)


def _causal(query_BHqSD: Tensor, key_BHkvTD: Tensor, value_BHkvTD: Tensor, scale: float | None) -> Tensor:
    """Attention in which query row i sees keys 0 .. T - S + i."""
    new, total = query_BHqSD.shape[2], key_BHkvTD.shape[2]
    rows = (query_BHqSD, key_BHkvTD, value_BHkvTD)
    if new == total:
        return scaled_dot_product_attention(*rows, is_causal=True, scale=scale, enable_gqa=True)
    last_rows = causal_lower_right(new, total)
    return scaled_dot_product_attention(*rows, attn_mask=last_rows, scale=scale, enable_gqa=True)
