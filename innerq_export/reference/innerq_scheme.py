"""The InnerQ cache of SPEC as a Scheme: what a whole sequence of tokens reads as, all at once."""

from __future__ import annotations

from torch import Tensor, ones

from innerq_export.reference.blocks import Quantiser, dequantise_blocks, quantise_blocks
from innerq_export.reference.cache import key_norm_of
from innerq_export.reference.quantise import quantise
from innerq_export.reference.scheme import Hold, Scheme
from innerq_export.spec import GROUP_SIZE, CacheConfig, bits_per_value, blocks_of

SOURCE = "SPEC (arXiv 2602.23200)"


def innerq_scheme(
    config: CacheConfig, name: str, key_norm_HkvD: Tensor | None = None, groups: Quantiser = quantise
) -> Scheme:
    """Return `config` as a Scheme. `key_norm_HkvD` is the calibrated lambda of key_norm 'folded' (else 1)."""
    hold = Hold(config.sink, config.recent, GROUP_SIZE, own=True)

    def read_back(key_BHkvTD: Tensor, value_BHkvTD: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        return _read_back(config, key_BHkvTD, value_BHkvTD, prompt, key_norm_HkvD, groups)

    bits = (bits_per_value(config.key_bits, config.key_mode), bits_per_value(config.value_bits, config.value_mode))
    return Scheme(name, SOURCE, *bits, hold, hold, read_back)


def _read_back(
    config: CacheConfig, key: Tensor, value: Tensor, prompt: int, key_norm_HkvD: Tensor | None, groups: Quantiser
) -> tuple[Tensor, Tensor]:
    """Return keys and values [B, Hkv, T, D] in fp32: whole blocks from token S on dequantised, the rest as it is."""
    batch, heads, tokens, _ = key.shape
    blocks = max(0, tokens - config.sink) // GROUP_SIZE
    read_key, read_value = key.float().clone(), value.float().clone()
    if blocks == 0:
        return read_key, read_value
    part = slice(config.sink, config.sink + GROUP_SIZE * blocks)
    key_HTD, value_HTD = key[:, :, part].flatten(0, 1), value[:, :, part].flatten(0, 1)
    norm_HD = _key_norm(config, key_HTD, prompt, key_norm_HkvD, batch)
    made = quantise_blocks(config, key_HTD, value_HTD, norm_HD, groups)
    made_key, made_value = (x.flatten(1, 2) for x in dequantise_blocks(config, made))
    read_key[:, :, part] = (made_key * norm_HD.float()[:, None]).unflatten(0, (batch, heads))
    read_value[:, :, part] = made_value.unflatten(0, (batch, heads))
    return read_key, read_value


def _key_norm(config: CacheConfig, key_HTD: Tensor, prompt: int, key_norm_HkvD: Tensor | None, batch: int) -> Tensor:
    """Return lambda [B * Hkv, D] in fp16, from the blocks that the call which makes the first block makes."""
    if config.key_norm == "prefill":
        return key_norm_of(key_HTD[:, : GROUP_SIZE * max(1, blocks_of(config, prompt))])
    if config.key_norm == "folded" and key_norm_HkvD is not None:
        return key_norm_HkvD.to(key_HTD.device).repeat(batch, 1)
    return ones(key_HTD.shape[0], key_HTD.shape[2], device=key_HTD.device).half()
