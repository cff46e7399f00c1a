"""What transformers says of padding, kept as it came: our attention wants row lengths, torch's wants a dense mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerq_export.errors import ConfigError


class LazyMask:
    """Stands for an attention mask between transformers' mask builder and an attention function.

    `padding_BT`: bool, False where a column is padding; None where there is none to see.
    """

    def __init__(self, **arguments: Any):
        self._arguments = arguments
        self.padding_BT: Tensor | None = arguments.get("attention_mask")

    def dense(self) -> Tensor | None:
        """Return the mask that torch's scaled_dot_product_attention would have been given."""
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(**self._arguments)


@dataclass(frozen=True)
class Step:
    """One forward pass of S columns: row b holds `new_length_B[b]` tokens from column `start_B[b]` on (None: from 0).

    `past_length_B`: tokens held before it. Both lengths int32 on the device. `longest`: the largest new length, as far
    as the host knows.
    """

    past_length_B: Tensor
    new_length_B: Tensor
    longest: int
    start_B: Tensor | None = None

    def aligned(self, x_BHSD: Tensor) -> Tensor:
        """Return x with every row's tokens moved to the left; what lies behind them is padding."""
        return x_BHSD if self.start_B is None else _shifted(x_BHSD, self.start_B)

    def restored(self, x_BHSD: Tensor) -> Tensor:
        """Return x with every row's tokens where they came from; padding columns hold any finite number."""
        return x_BHSD if self.start_B is None else _shifted(x_BHSD, -self.start_B)


def plan_step(past_length_B: Tensor, padding_BT: Tensor | None, seen: int, columns: int) -> Step:
    """Return the step of `columns` new columns after `seen` ones; reads a mask, if there is one, on the host once.

    ConfigError where the mask is of another length, has holes, or masks tokens that the cache holds already.
    """
    new_length_B = torch.full_like(past_length_B, columns)
    if padding_BT is None:
        return Step(past_length_B, new_length_B, columns)
    expected = (len(past_length_B), seen + columns)
    if tuple(padding_BT.shape) != expected:
        fix = "pass the mask of all columns so far, those in the cache included"
        raise ConfigError("attention_mask: shape", expected=list(expected), got=list(padding_BT.shape), fix=fix)
    new_BS = padding_BT[:, seen:]
    count_B = new_BS.sum(1, dtype=torch.int32)
    start_B = new_BS.to(torch.int8).argmax(1).to(torch.int32)
    column_S = torch.arange(columns, device=new_BS.device)
    run_BS = (column_S >= start_B[:, None]) & (column_S < (start_B + count_B)[:, None])
    past_B = padding_BT[:, :seen].sum(1, dtype=torch.int32)
    whole, same, full, longest = torch.stack(
        [(run_BS == new_BS).all(), (past_B == past_length_B).all(), new_BS.all(), count_B.max()]
    ).tolist()
    _check(bool(whole), bool(same), past_B, past_length_B)
    return Step(past_length_B, new_length_B if full else count_B, longest, None if full else start_B)


def _check(whole: bool, same: bool, past_B: Tensor, past_length_B: Tensor) -> None:
    if not whole:
        fix = "pad a batch on one side: tokenizer(..., padding=True, padding_side='left')"
        raise ConfigError("attention_mask: a row with holes", expected="one run of ones among its new columns", fix=fix)
    if not same:
        raise ConfigError(
            "attention_mask: its past is not what the cache holds",
            expected=f"{past_length_B.tolist()} tokens",
            got=f"{past_B.tolist()} ones",
            fix="a token's mask is final once the token is in the cache: pass the same past, or start a new cache",
        )


def _shifted(x_BHSD: Tensor, by_B: Tensor) -> Tensor:
    """Return y[b, :, s] = x[b, :, s + by_B[b]], the nearest row where that is outside."""
    columns = x_BHSD.shape[2]
    index_BS = (torch.arange(columns, device=x_BHSD.device) + by_B[:, None]).clamp(0, columns - 1)
    return x_BHSD.gather(2, index_BS[:, None, :, None].expand(x_BHSD.shape))
