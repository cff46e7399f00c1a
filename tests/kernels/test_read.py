"""Reading a cache back: packed <-> logical exactly, and dequantised keys and values equal to the reference's."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innerq_export import reference
from innerq_export.errors import UserError
from innerq_export.integrations import calls
from innerq_export.reference import Blocks, empty_blocks, packed
from innerq_export.spec import BITS, KEY_NORMS, MODES, PRESETS, CacheConfig
from tests.kernels.abi import convert
from tests.kernels.side_by_side import POISON, SideBySide, bits, lengths

relaxed = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
configs = st.builds(
    CacheConfig,
    key_bits=st.sampled_from(BITS),
    value_bits=st.sampled_from(BITS),
    key_mode=st.sampled_from(MODES),
    value_mode=st.sampled_from(MODES),
)


def on(blocks: Blocks, device: str) -> Blocks:
    return Blocks.of({name: tensor.to(device) for name, tensor in blocks.tensors().items()})


def random_records(pair: SideBySide, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(-(2**31), 2**31, pair.cache.blocks.shape, generator=generator, dtype=torch.int64)
    pair.cache.blocks.copy_(words.to(torch.int32))
    return pair.records()


@given(configs, st.sampled_from([64, 128, 256]), st.sampled_from([0, 1, 2]), st.integers(0, 2**31))
@relaxed
def test_any_bits_convert_to_logical_and_back(kernels, config, head_dim, page_blocks, seed):
    pair = SideBySide(kernels, config, head_dim=head_dim, blocks=2, pages=page_blocks)
    records = random_records(pair, seed)
    blocks = on(empty_blocks(config, 2, 2, head_dim, 2), kernels.device)
    convert(kernels.library, "innerq_to_logical", pair.cache, blocks)
    expected = packed.unpack(config, records, head_dim).tensors()
    for name, tensor in blocks.tensors().items():
        assert torch.equal(bits(tensor), bits(expected[name])), name
    pair.cache.blocks.fill_(POISON)
    convert(kernels.library, "innerq_from_logical", pair.cache, blocks)
    assert torch.equal(pair.records(), records)


def test_only_blocks_of_the_given_lengths_are_converted(kernels):
    pair = SideBySide(kernels, blocks=3)
    held = lengths([4 + 8 + 2 * 32, 4 + 8 + 31], kernels.device)
    records = random_records(pair, 1)
    blocks = on(empty_blocks(pair.config, 2, 2, 64, 3), kernels.device)
    convert(kernels.library, "innerq_to_logical", pair.cache, blocks, held)
    assert blocks.key_codes_BHkvN32D[0, :, :2].any() and not blocks.key_codes_BHkvN32D[0, :, 2].any()
    assert not blocks.value_scales_BHkvND[1].any()
    pair.cache.blocks.fill_(POISON)
    convert(kernels.library, "innerq_from_logical", pair.cache, blocks, held)
    assert torch.equal(pair.records()[0, :, :2], records[0, :, :2])
    assert (pair.records()[0, :, 2] == POISON).all() and (pair.records()[1] == POISON).all()


@pytest.mark.parametrize("name", ["key_codes", "value_codes"])
def test_codes_that_do_not_begin_at_a_word_are_refused(host_kernels, name):
    pair = SideBySide(host_kernels, blocks=1)
    tensors = empty_blocks(pair.config, 2, 2, 64, 1).tensors()
    codes = tensors[name]
    tensors[name] = torch.zeros(codes.numel() + 1, dtype=torch.int8)[1:].view(codes.shape)
    with pytest.raises(UserError, match=r"logical\.\w+_codes_BHkvNB32D: expected 4-byte alignment"):
        convert(host_kernels.library, "innerq_to_logical", pair.cache, Blocks.of(tensors))


@pytest.mark.parametrize("bit", BITS)
def test_a_code_out_of_range_harms_no_neighbour(kernels, bit):
    pair = SideBySide(kernels, CacheConfig(key_bits=bit, value_bits=bit), blocks=1)
    blocks = on(empty_blocks(pair.config, 2, 2, 64, 1), kernels.device)
    blocks.key_codes_BHkvN32D[0, 0, 0, 5, 7] = 127
    blocks.value_codes_BHkvN32D[0, 0, 0, 30, 63] = -128
    convert(kernels.library, "innerq_from_logical", pair.cache, blocks)
    back = packed.unpack(pair.config, pair.records(), 64)
    for codes, place in ((back.key_codes_BHkvN32D, (5, 7)), (back.value_codes_BHkvN32D, (30, 63))):
        codes[0, 0, 0][place] = 0
        assert not codes.any()


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(PRESETS, [torch.float16, torch.bfloat16])))
@pytest.mark.parametrize("page_blocks", [0, 3])
def test_dequantised_tokens_are_the_references(kernels, name, dtype, page_blocks):
    pair = SideBySide(kernels, PRESETS[name].replace(sink=4, recent=8), dtype=dtype, pages=page_blocks)
    pair.append(pair.random(150, 1), pair.random(150, 2), [150, 57])
    for tokens in (1, 3, 36, 150, 170):
        got = calls.dequantise(kernels.library, pair.cache, lengths(pair.past, kernels.device), tokens)
        for x, y in zip(got, reference.dequantised_history(pair.expected, pair.past), strict=True):
            expected = torch.nn.functional.pad(y, (0, 0, 0, 20))[:, :, :tokens].to(dtype)
            assert torch.equal(x.cpu(), expected)


@pytest.mark.parametrize(("mode", "key_norm"), list(itertools.product(MODES, KEY_NORMS)))
def test_dequantised_in_every_mode(kernels, mode, key_norm):
    for bit in BITS:
        config = CacheConfig(bit, mode, bit, mode, sink=0, recent=0, key_norm=key_norm)
        pair = SideBySide(kernels, config, batch=1)
        pair.append(pair.random(64, 1), pair.random(64, 2))
        got = calls.dequantise(kernels.library, pair.cache, lengths(pair.past, kernels.device), 64)
        for x, y in zip(got, reference.dequantised_history(pair.expected, pair.past), strict=True):
            assert torch.equal(x.cpu(), y.half())


def test_unwritten_pages_read_as_zeros(kernels):
    pair = SideBySide(kernels, sorted(PRESETS.items())[0][1].replace(sink=4, recent=8), pages=1, batch=1)
    pair.append(pair.random(76, 1), pair.random(76, 2))
    pair.cache.block_table_BP[0, 1] = -1
    key, _ = calls.dequantise(kernels.library, pair.cache, lengths(pair.past, kernels.device), 76)
    assert key[0, :, 4:36].any() and not key[0, :, 36:68].any() and key[0, :, 68:].any()
