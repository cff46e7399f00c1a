"""Attention through the C ABI against the reference in fp64 on the same cache: relative L2 at most 2e-3."""

from __future__ import annotations

import itertools

import pytest
import torch

from innerq_export import reference
from innerq_export.integrations import calls
from innerq_export.spec import MODES, PRESETS, CacheConfig
from innerq_export.spec.layout import record_parts
from tests.kernels.abi import prefill
from tests.kernels.side_by_side import SideBySide, lengths

TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 6e-3}  # bf16: half a step of 2^-8 in every output
SMALL = PRESETS["hybrid"].replace(sink=4, recent=8)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert torch.isfinite(got).all()
    return float((got.double().cpu() - expected).norm() / expected.norm())


def attend_both(pair: SideBySide, tokens: int, heads: int, new=None, *, with_prefill=False, peak=1.0):
    """(library, fp64 reference) for `tokens` more tokens, appended first."""
    past, device = pair.past.clone(), pair.kernels.device
    query, key, value = pair.random(tokens, 1, heads) * peak, pair.random(tokens, 2), pair.random(tokens, 3)
    new_length = lengths(new or [tokens] * pair.shape[0])
    for b, count in enumerate(new_length.tolist()):
        for x in (query, key, value):
            x[b, :, count:] = 0
    pair.append(key, value, new_length.tolist())
    for b, count in enumerate(new_length.tolist()):
        for x in (query, key, value):
            x[b, :, count:] = torch.nan
    expected = reference.attend(pair.expected, query.double(), key, value, past, new_length)
    on_device = [x.to(device) for x in (query, key, value)]
    where = (lengths(past, device), lengths(new_length, device) if new else None)
    if with_prefill:
        got = prefill(pair.kernels.library, pair.cache, on_device, *where, int(past.max()))
    else:
        got = calls.attend(pair.kernels.library, pair.cache, *on_device, *where)
    return got, expected


def filled(kernels, config=SMALL, past=(150, 57), **sizes) -> SideBySide:
    pair = SideBySide(kernels, config, **sizes)
    pair.append(pair.random(max(past), 11), pair.random(max(past), 12), list(past))
    return pair


@pytest.mark.parametrize("with_prefill", [False, True])
@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(PRESETS, TOLERANCE)))
def test_presets(kernels, name, dtype, with_prefill):
    pair = filled(kernels, PRESETS[name].replace(sink=4, recent=8), dtype=dtype, pages=2 * with_prefill)
    got, expected = attend_both(pair, 5, 4, with_prefill=with_prefill)
    assert relative_error(got, expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("with_prefill", [False, True])
@pytest.mark.parametrize(("past", "tokens"), list(itertools.product([0, 3, 4, 12, 43, 44, 45, 76, 107], [1, 2, 16])))
def test_every_boundary(kernels, past, tokens, with_prefill):
    pair = filled(kernels, past=(past, 4)) if past else SideBySide(kernels, SMALL)
    got, expected = attend_both(pair, tokens, 2, with_prefill=with_prefill)
    assert relative_error(got, expected) <= 2e-3


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_prefill_of_many_tiles(kernels, head_dim, dtype):
    pair = filled(kernels, head_dim=head_dim, dtype=dtype, blocks=20)
    got, expected = attend_both(pair, 130, 6, new=[130, 67], with_prefill=True)
    assert relative_error(got, expected) <= TOLERANCE[dtype]
    assert not got[1, :, 67:].any()


@pytest.mark.parametrize("with_prefill", [False, True])
def test_ragged_rows_behind_the_new_length_are_zero(kernels, with_prefill):
    got, expected = attend_both(filled(kernels), 6, 4, new=[6, 0], with_prefill=with_prefill)
    assert relative_error(got, expected) <= 2e-3
    assert not got[1].any()


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("group", "tokens"), [(3, 3), (4, 3), (8, 2), (6, 3), (8, 4), (4, 16)])
def test_query_rows_of_several_products(kernels, group, tokens, head_dim):
    """9 to 64 rows of a KV head: kernels take 8 or 16 at a time, and the second sequence has a new token less."""
    pair = filled(kernels, PRESETS["base"], past=(1500, 150), blocks=48, head_dim=head_dim)
    got, expected = attend_both(pair, tokens, 2 * group, new=[tokens, tokens - 1])
    for b in range(2):
        assert relative_error(got[b], expected[b]) <= 2e-3
    assert not got[1, :, tokens - 1 :].any()


def test_a_warp_for_every_head(kernels):
    """As many heads of equal length as the card has warps at work: no CTA is left with a partial result."""
    on_card = kernels.device != "cpu"
    batch = torch.cuda.get_device_properties(kernels.device).multi_processor_count if on_card else 2
    pair = filled(kernels, past=(12,) * batch, batch=batch, heads=8, blocks=1)
    got, expected = attend_both(pair, 1, 8)
    assert relative_error(got, expected) <= 2e-3


@pytest.mark.parametrize("with_prefill", [False, True])
def test_a_peaked_softmax(kernels, with_prefill):
    got, expected = attend_both(filled(kernels), 4, 4, with_prefill=with_prefill, peak=30.0)
    assert relative_error(got, expected) <= 2e-3


@pytest.mark.parametrize("with_prefill", [False, True])
@pytest.mark.parametrize("fault", ["code", "scale", "block", "window"])
def test_the_tolerance_sees_faults(kernels, fault, with_prefill):
    """One step in half of a block's key codes, two blocks' scales swapped, blocks or window off by one."""
    pair = filled(kernels, CacheConfig(sink=4, recent=8, key_norm="none"))
    blocks = pair.cache.blocks
    if fault == "code":
        blocks[:, :, 1, : blocks.shape[3] // 3] ^= 1
    elif fault == "scale":
        blocks[:, :, [0, 1], 192:224] = blocks[:, :, [1, 0], 192:224]
    elif fault == "block":
        blocks.copy_(blocks.roll(1, dims=2))
    else:
        pair.cache.window_B2HkvWD[:, 1] = pair.cache.window_B2HkvWD[:, 1].roll(1, dims=2)
    faulty = SideBySide(pair.kernels, pair.config)
    faulty.expected, faulty.cache = pair.expected, pair.cache
    got, expected = attend_both(faulty, 3, 4, with_prefill=with_prefill)
    assert relative_error(got, expected) > 2e-3


@pytest.mark.parametrize("fault", [None, "zeros"])
@pytest.mark.parametrize("heads", [2, 8, 16])  # 1, 4 and 8 rows of a KV head
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_zeros_of_hybrid(kernels, head_dim, heads, fault):
    """Values far from zero, groups of both modes side by side: the zeros are nearly all of the output."""
    pair = SideBySide(kernels, SMALL, head_dim=head_dim, batch=1)
    value, far = pair.random(182, 12), torch.arange(head_dim) % 3 * 40.0 - 40.0
    value = torch.where(far == 0, value.round().clamp(-1, 1), value + far)  # -1, 0 and 1 are symmetric codes
    pair.append(pair.random(182, 11), value.to(pair.dtype))
    scales, zeros = (part_of(pair, f"value_{what}") for what in ("scales", "zeros"))
    asymmetric = torch.signbit(scales[..., :5, :])
    assert asymmetric.any() and not asymmetric.all()
    if fault == "zeros":
        zeros[..., :5, :] *= 1.01
    got, expected = attend_both(pair, 1, heads)
    assert (relative_error(got, expected) > 2e-3) == (fault == "zeros")


def part_of(pair: SideBySide, name: str) -> torch.Tensor:
    """A part of all records as fp16 numbers, which can be written to."""
    return pair.cache.blocks.view(torch.float16)[..., record_parts(pair.config, pair.shape[2])[name].among(2)]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_width_of_keys_and_values(kernels, mode):
    for key_bits, value_bits in itertools.product([2, 3, 4, 8], repeat=2):
        config = CacheConfig(key_bits, mode, value_bits, MODES[MODES.index(mode) - 1], sink=4, recent=8)
        got, expected = attend_both(filled(kernels, config, past=(90, 50), heads=1), 1, 2)
        assert relative_error(got, expected) <= 2e-3, config


@pytest.mark.parametrize("with_prefill", [False, True])
def test_non_finite_input_ends(kernels, with_prefill):
    """NaN in one sequence neither hangs nor reaches the other."""
    pair = filled(kernels)
    pair.cache.window_B2HkvWD[0] = torch.nan
    past, device = pair.past, kernels.device
    tokens = [pair.random(2, seed, heads).to(device) for seed, heads in ((1, 4), (2, 2), (3, 2))]
    tokens[0][0] = torch.inf
    arguments = (kernels.library, pair.cache)
    where = (lengths(past - 2, device), lengths([2, 2], device))
    if with_prefill:
        got = prefill(*arguments, tokens, *where, int(past.max()))
    else:
        got = calls.attend(*arguments, *tokens, *where)
    assert not torch.isfinite(got[0]).all()
    assert torch.isfinite(got[1]).all()
