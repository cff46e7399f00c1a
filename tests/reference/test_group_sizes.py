"""Groups of other sizes: at 32 they are the contract's own, elsewhere each group has its own scale and no other's."""

from __future__ import annotations

import pytest
import torch

from innerq_export.errors import ConfigError
from innerq_export.reference.group_sizes import grouped_scheme
from innerq_export.reference.innerq_scheme import innerq_scheme
from innerq_export.reference.scheme import Hold
from innerq_export.spec import MODES, CacheConfig, preset

HEAD_DIM = 64


def keys_and_values(tokens: int = 300) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 2, tokens, HEAD_DIM, generator=generator).half().float() for _ in range(2)]


@pytest.mark.parametrize("key_norm", ["prefill", "none"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prompt", [1, 200])
def test_groups_of_32_are_the_contracts(key_norm, mode, prompt):
    config = CacheConfig(key_mode=mode, value_mode=mode, key_norm=key_norm, sink=16, recent=48)
    ours, other = innerq_scheme(config, "x"), grouped_scheme(config, 32, HEAD_DIM, "x")
    assert (ours.key_bits, ours.value_bits, ours.key_hold) == (other.key_bits, other.value_bits, other.key_hold)
    expected, got = (scheme.read_back(*keys_and_values(), prompt) for scheme in (ours, other))
    assert torch.equal(expected[0], got[0]) and torch.equal(expected[1], got[1])


@pytest.mark.parametrize(("group", "bits"), [(16, 4.0), (32, 3.5), (64, 3.25)])
def test_a_scale_is_shared_by_its_group(group, bits):
    scheme = grouped_scheme(preset("balanced"), group, HEAD_DIM, "x")
    assert scheme.bits == bits and scheme.key_hold == scheme.value_hold == Hold(32, 96, group, own=True)


@pytest.mark.parametrize("group", [16, 64])
def test_a_change_is_felt_in_its_own_group_alone(group):
    config = CacheConfig(key_norm="none", sink=0, recent=0)
    scheme, (key, value) = grouped_scheme(config, group, HEAD_DIM, "x"), keys_and_values(192)
    before = scheme.read_back(key, value, 192)
    key[0, 1, 70, 40] = value[0, 1, 70, 40] = 50.0
    after = scheme.read_back(key, value, 192)
    key_changed, value_changed = ((a != b).nonzero() for a, b in zip(before, after, strict=True))
    start = 40 // group * group
    assert set(key_changed[:, 2].tolist()) == {70}
    assert set(key_changed[:, 3].tolist()) <= set(range(start, start + group)) and len(key_changed) > group / 2
    start = 70 // group * group
    assert set(value_changed[:, 3].tolist()) == {40}
    assert set(value_changed[:, 2].tolist()) <= set(range(start, start + group)) and len(value_changed) > group / 2


def test_smaller_groups_are_nearer():
    key, value = keys_and_values()
    errors = []
    for group in (16, 32, 64):
        read = grouped_scheme(preset("balanced"), group, HEAD_DIM, "x").read_back(key, value, 200)
        errors.append(sum((a - b).square().sum().item() for a, b in zip(read, (key, value), strict=True)))
    assert errors[0] < 0.9 * errors[1] < 0.8 * errors[2]


@pytest.mark.parametrize(
    ("group", "changes", "words"),
    [(128, {}, "groups of 128"), (48, {}, "groups of 48"), (16, {"key_norm": "folded"}, "folded")],
)
def test_what_cannot_be_is_refused(group, changes, words):
    with pytest.raises(ConfigError, match=words):
        grouped_scheme(CacheConfig(**changes), group, HEAD_DIM, "x")


def test_a_short_sequence_is_left_alone():
    key, value = keys_and_values(60)
    read = grouped_scheme(preset("balanced"), 64, HEAD_DIM, "x").read_back(key, value, 60)
    assert torch.equal(read[0], key) and torch.equal(read[1], value)
