"""Finding the first difference between two caches: every part is seen, named and placed; what is not held is not."""

from __future__ import annotations

import pytest
import torch

from innerq_export.parity.compare import first_difference, tokens_of_slots
from innerq_export.reference import Cache, append, empty_cache, slot_of
from innerq_export.spec import CacheConfig

CONFIG = CacheConfig(key_mode="hybrid", value_mode="asymmetric", sink=4, recent=8)


def cache(lengths=(90, 50), config: CacheConfig = CONFIG) -> Cache:
    torch.manual_seed(0)
    key, value = torch.randn(2, 2, 2, max(lengths), 64).half()
    return append(empty_cache(config, 2, 2, 64, 4), key, value, torch.tensor(lengths))


def held(cache: Cache) -> dict[str, torch.Tensor]:
    tensors = {"window": cache.window_B2HkvWD, "key_norm": cache.key_norm_BHkvD, **cache.blocks.tensors()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_equal_caches_do_not_differ() -> None:
    assert first_difference(cache(), held(cache())) is None


@pytest.mark.parametrize(
    ("part", "place", "token"),
    [
        ("key_codes", (1, 1, 0, 5, 9), 4 + 5),
        ("key_scales", (0, 1, 1, 7, 1), 4 + 32 + 7),
        ("key_zeros", (0, 1, 1, 7, 1), 4 + 32 + 7),
        ("value_codes", (0, 0, 1, 31, 63), 4 + 63),
        ("value_scales", (0, 1, 0, 40), None),
        ("value_zeros", (1, 0, 0, 3), None),
        ("key_norm", (1, 1, 8), None),
    ],
)
def test_one_step_is_seen_and_placed(part: str, place: tuple[int, ...], token: int | None) -> None:
    expected, got = cache(), held(cache())
    got[part][place] += 1
    found = first_difference(expected, got)
    assert found is not None
    assert (found.part, found.sequence, found.head, found.token) == (part, place[0], place[1], token)
    assert found.block == (None if part == "key_norm" else place[2])
    assert found.got == pytest.approx(found.expected + 1, abs=1e-2)


def test_a_window_slot_is_placed_at_its_token() -> None:
    expected, got = cache(), held(cache())
    slot = int(slot_of(CONFIG, torch.tensor(80)))
    got["window"][0, 1, 1, slot, 3] += 1
    found = first_difference(expected, got)
    assert found is not None and (found.part, found.token, found.head) == ("window of values", 80, 1)


def test_the_sign_of_a_zero_counts_in_a_window_but_not_in_a_scale() -> None:
    plain = CONFIG.replace(key_mode="symmetric")
    expected = cache(config=plain)
    expected.blocks.key_scales_BHkvN32E[0, 0, 0, 0, 0] = 0.0
    expected.window_B2HkvWD[0, 0, 0, 1, 1] = 0.0
    got = held(expected)
    got["key_scales"][0, 0, 0, 0, 0] = -0.0
    assert first_difference(expected, got) is None
    got["window"][0, 0, 0, 1, 1] = -0.0
    assert first_difference(expected, got) is not None


def test_the_sign_of_a_zero_scale_is_the_flag_of_hybrid() -> None:
    expected = cache()
    expected.blocks.key_scales_BHkvN32E[0, 0, 0, 0, 0] = 0.0
    got = held(expected)
    got["key_scales"][0, 0, 0, 0, 0] = -0.0
    found = first_difference(expected, got)
    assert found is not None and found.part == "key_scales"


def test_what_is_not_held_may_be_anything() -> None:
    expected, got = cache((50, 3)), held(cache((50, 3)))
    for name, tensor in got.items():
        if name not in ("window", "key_norm"):
            tensor[1] = 7
            tensor[0, :, 1:] = 7
    got["window"][1, :, :, 3:] = torch.nan
    assert first_difference(expected, got) is None


@pytest.mark.parametrize("length", [0, 1, 4, 5, 43, 44, 45, 200])
@pytest.mark.parametrize("sink", [0, 4])
def test_tokens_of_slots_inverts_slot_of(length: int, sink: int) -> None:
    made = empty_cache(CONFIG.replace(sink=sink), 1, 1, 64, 1)
    newest = torch.full((made.config.window_tokens,), -1)
    for token in range(length):
        newest[slot_of(made.config, torch.tensor(token))] = token
    assert torch.equal(tokens_of_slots(made, length), newest)
