"""Packed records and logical blocks convert into each other exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.errors import UserError
from innerq_export.reference import Blocks, empty_blocks
from innerq_export.reference.packed import pack, unpack
from innerq_export.spec import BITS, MODES, CacheConfig, record_bytes

configs = st.builds(
    CacheConfig,
    key_bits=st.sampled_from(BITS),
    value_bits=st.sampled_from(BITS),
    key_mode=st.sampled_from(MODES),
    value_mode=st.sampled_from(MODES),
)


def random_blocks(config: CacheConfig, head_dim: int, seed: int) -> Blocks:
    """Blocks whose codes take every value and whose scales are distinct (negative ones too)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = empty_blocks(config, 2, 2, head_dim, 3).tensors()
    for name, tensor in tensors.items():
        if name.endswith("codes"):
            half = 2 ** ((config.key_bits if name.startswith("key") else config.value_bits) - 1)
            tensors[name] = torch.randint(-half, half, tensor.shape, generator=generator).to(torch.int8)
        else:
            tensors[name] = torch.randn(tensor.shape, generator=generator).half()
    return Blocks.of(tensors)


@settings(max_examples=60, deadline=None)
@given(configs, st.sampled_from([64, 128, 256]), st.integers(0, 2**31))
def test_logical_to_packed_and_back(config: CacheConfig, head_dim: int, seed: int) -> None:
    blocks = random_blocks(config, head_dim, seed)
    records = pack(config, blocks)
    assert records.dtype == torch.int32
    assert tuple(records.shape) == (2, 2, 3, record_bytes(config, head_dim) // 4)
    back = unpack(config, records, head_dim).tensors()
    assert list(back) == list(blocks.tensors())
    for name, tensor in blocks.tensors().items():
        assert torch.equal(back[name], tensor), name


@settings(max_examples=30, deadline=None)
@given(configs, st.integers(0, 2**31))
def test_packed_to_logical_and_back(config: CacheConfig, seed: int) -> None:
    """Any bits are a record: nothing of one is lost."""
    torch.manual_seed(seed)
    words = record_bytes(config, 64) // 4
    records = torch.randint(-(2**31), 2**31, (1, 1, 2, words), dtype=torch.int64).to(torch.int32)
    assert torch.equal(pack(config, unpack(config, records, 64)), records)


def test_records_of_another_configuration_are_refused() -> None:
    records = pack(CacheConfig(), random_blocks(CacheConfig(), 64, 0))
    with pytest.raises(UserError, match="packed records"):
        unpack(CacheConfig(key_bits=4), records, 64)
    with pytest.raises(UserError, match="packed records"):
        unpack(CacheConfig(), records, 128)
