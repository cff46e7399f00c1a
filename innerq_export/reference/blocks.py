"""Blocks of 32 tokens in the logical layout: what is quantised of one layer (SPEC sections 2, 3, 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.reference.quantise import Quantised, dequantise, quantise
from innerq_export.spec import GROUP_SIZE, CacheConfig, has_zeros

Quantiser = Callable[[Tensor, int, str, str], Quantised]
"""(x_g32, bits, mode, name) -> codes, scales and zeros; as `quantise`."""


@dataclass(frozen=True)
class Blocks:
    """N blocks per sequence and KV head; E = D / 32. Codes int8 (logical), scales and zeros fp16.

    Zeros are None in modes without a zero point.
    """

    key_codes_BHkvN32D: Tensor
    key_scales_BHkvN32E: Tensor
    value_codes_BHkvN32D: Tensor
    value_scales_BHkvND: Tensor
    key_zeros_BHkvN32E: Tensor | None = None
    value_zeros_BHkvND: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that exist, by the short names of the op table, in its order."""
        named = {
            "key_codes": self.key_codes_BHkvN32D,
            "key_scales": self.key_scales_BHkvN32E,
            "key_zeros": self.key_zeros_BHkvN32E,
            "value_codes": self.value_codes_BHkvN32D,
            "value_scales": self.value_scales_BHkvND,
            "value_zeros": self.value_zeros_BHkvND,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> Blocks:
        """Return the blocks whose `tensors()` these are."""
        return cls(
            key_codes_BHkvN32D=tensors["key_codes"],
            key_scales_BHkvN32E=tensors["key_scales"],
            value_codes_BHkvN32D=tensors["value_codes"],
            value_scales_BHkvND=tensors["value_scales"],
            key_zeros_BHkvN32E=tensors.get("key_zeros"),
            value_zeros_BHkvND=tensors.get("value_zeros"),
        )

    def clone(self) -> Blocks:
        """Return a copy that shares no memory."""
        return Blocks.of({name: tensor.clone() for name, tensor in self.tensors().items()})

    def part(self, *index: int | slice | Tensor) -> Blocks:
        """Return the blocks with `index` applied to (B, Hkv, N, ...) of every tensor."""
        return Blocks.of({name: tensor[index] for name, tensor in self.tensors().items()})

    @property
    def capacity(self) -> int:
        """N: blocks that a sequence has room for."""
        return self.key_codes_BHkvN32D.shape[-3]


def empty_blocks(config: CacheConfig, batch: int, kv_heads: int, head_dim: int, capacity_blocks: int) -> Blocks:
    """Return room for `capacity_blocks` blocks per sequence and KV head, all zero."""
    rows = (batch, kv_heads, capacity_blocks)
    key_scales = torch.zeros(*rows, GROUP_SIZE, head_dim // GROUP_SIZE, dtype=torch.float16)
    value_scales = torch.zeros(*rows, head_dim, dtype=torch.float16)
    codes = torch.zeros(*rows, GROUP_SIZE, head_dim, dtype=torch.int8)
    return Blocks(
        key_codes_BHkvN32D=codes,
        key_scales_BHkvN32E=key_scales,
        value_codes_BHkvN32D=codes.clone(),
        value_scales_BHkvND=value_scales,
        key_zeros_BHkvN32E=key_scales.clone() if has_zeros(config.key_mode) else None,
        value_zeros_BHkvND=value_scales.clone() if has_zeros(config.value_mode) else None,
    )


def quantise_blocks(
    config: CacheConfig, key_HkvTD: Tensor, value_HkvTD: Tensor, key_norm_HkvD: Tensor, groups: Quantiser = quantise
) -> Blocks:
    """Quantise T = 32 N tokens of one sequence into blocks [Hkv, N, ...]: keys as K / lambda, in fp32.

    Key groups run along channels (one scale per token and 32 channels), value groups along tokens (one per channel).
    `groups` chooses codes and scales: SPEC section 4's formulas, or `quantise_least_squares`.
    """
    key_HkvN32D = _in_blocks(key_HkvTD.float() / key_norm_HkvD.float()[:, None])
    value_HkvND32 = _in_blocks(value_HkvTD.float()).transpose(-1, -2)
    key_HkvN32Eg = key_HkvN32D.unflatten(-1, (-1, GROUP_SIZE))
    key = groups(key_HkvN32Eg, config.key_bits, config.key_mode, "key / lambda")
    value = groups(value_HkvND32, config.value_bits, config.value_mode, "value")
    return Blocks(key.code.flatten(-2), key.scale, value.code.transpose(-1, -2), value.scale, key.zero, value.zero)


def dequantise_blocks(config: CacheConfig, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Return keys (still divided by lambda) and values [..., N, 32, D] in fp32."""
    key_groups = blocks.key_codes_BHkvN32D.unflatten(-1, (-1, GROUP_SIZE))
    key = Quantised(key_groups, blocks.key_scales_BHkvN32E, blocks.key_zeros_BHkvN32E)
    value_groups = blocks.value_codes_BHkvN32D.transpose(-1, -2)
    value = Quantised(value_groups, blocks.value_scales_BHkvND, blocks.value_zeros_BHkvND)
    return (
        dequantise(key, config.key_bits, config.key_mode).flatten(-2),
        dequantise(value, config.value_bits, config.value_mode).transpose(-1, -2),
    )


def _in_blocks(x_HkvTD: Tensor) -> Tensor:
    return x_HkvTD.unflatten(-2, (-1, GROUP_SIZE))
