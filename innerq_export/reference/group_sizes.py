"""InnerQ with other group sizes than the contract's 32, as a Scheme: what the choice of 32 costs or buys.

A group of G values has one scale: G channels of a key's token, G tokens of a value's channel; so tokens leave the
window G at a time. Everything else is SPEC sections 2 to 5. For comparison: no kernel, engine or cache has them.
"""

from __future__ import annotations

from torch import Tensor, ones

from innerq_export.errors import ConfigError
from innerq_export.reference.cache import key_norm_of
from innerq_export.reference.innerq_scheme import SOURCE
from innerq_export.reference.quantise import dequantise, quantise_groups
from innerq_export.reference.scheme import Hold, Scheme
from innerq_export.spec import GROUP_SIZE, CacheConfig, bits_per_value


def grouped_scheme(config: CacheConfig, group: int, head_dim: int, name: str) -> Scheme:
    """Return `config` in groups of `group` values. ConfigError unless they divide the head, or for a folded lambda."""
    if head_dim % group or group & (group - 1):
        fix = "choose a power of two that divides the head dim"
        raise ConfigError(f"groups of {group}", expected=f"a part of {head_dim} channels", got=group, fix=fix)
    if config.key_norm == "folded":
        raise ConfigError("groups of other sizes", expected="key_norm prefill or none", got="folded", fix="change it")
    hold = Hold(config.sink, config.recent, group, own=True)

    def read_back(key_BHkvTD: Tensor, value_BHkvTD: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
        return _read_back(config, group, key_BHkvTD, value_BHkvTD, prompt)

    costs = (_bits(config.key_bits, config.key_mode, group), _bits(config.value_bits, config.value_mode, group))
    return Scheme(name, SOURCE, *costs, hold, hold, read_back)


def _bits(bits: int, mode: str, group: int) -> float:
    return bits + (bits_per_value(bits, mode) - bits) * GROUP_SIZE / group


def _read_back(config: CacheConfig, group: int, key: Tensor, value: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
    """Return keys and values [B, Hkv, T, D] in fp32: whole groups of tokens from S on as they read once quantised."""
    whole = max(0, key.shape[2] - config.sink) // group * group
    read_key, read_value = key.float().clone(), value.float().clone()
    if whole == 0:
        return read_key, read_value
    part = slice(config.sink, config.sink + whole)
    old_key, old_value = read_key[:, :, part], read_value[:, :, part]
    norm = _key_norm(config, group, old_key, prompt).float()[:, :, None]
    key_gN = (old_key / norm).unflatten(-1, (-1, group))
    value_gN = old_value.unflatten(2, (-1, group)).transpose(-1, -2)
    key_gN = _as_read(key_gN, config.key_bits, config.key_mode, "key / lambda")
    value_gN = _as_read(value_gN, config.value_bits, config.value_mode, "value")
    read_key[:, :, part] = key_gN.flatten(-2) * norm
    read_value[:, :, part] = value_gN.transpose(-1, -2).flatten(2, 3)
    return read_key, read_value


def _as_read(x_gN: Tensor, bits: int, mode: str, name: str) -> Tensor:
    return dequantise(quantise_groups(x_gN, bits, mode, name), bits, mode)


def _key_norm(config: CacheConfig, group: int, old_key: Tensor, prompt: int) -> Tensor:
    """Return lambda [B, Hkv, D] in fp16, from the tokens that the call which quantises first quantises."""
    if config.key_norm == "none":
        return ones(*old_key.shape[:2], old_key.shape[-1], device=old_key.device).half()
    due = max(0, prompt - config.sink - config.recent) // group
    return key_norm_of(old_key[:, :, : group * max(1, due)])
