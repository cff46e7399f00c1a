"""The ladder on the reference itself: no false alarm, every fault of a cache caught, tolerances that faults prove."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from innerq_export.parity.cases import prompts_case
from innerq_export.parity.ladder import Ladder
from innerq_export.parity.rungs import AttentionRung, CacheRung, KeysValuesRung, LogitsRung, UnquantisedRung
from innerq_export.parity.runners.emulated import EmulatedRunner
from innerq_export.parity.text import token_streams
from innerq_export.reference import Blocks, Cache
from innerq_export.spec import CacheConfig

CONFIG = CacheConfig(sink=4, recent=12)
CASE = prompts_case(90, 60, decode=3)


def change_blocks(cache: Cache, part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Cache:
    tensors = cache.blocks.tensors()
    return dataclasses.replace(cache, blocks=Blocks.of(tensors | {part: change(tensors[part])}))


def one_code(cache: Cache) -> Cache:
    def add_one(codes: torch.Tensor) -> torch.Tensor:
        codes = codes.clone()
        codes[0, 1, 0, 5, 9] += 1
        return codes

    return change_blocks(cache, "value_codes", add_one)


def two_scales_swapped(cache: Cache) -> Cache:
    order = [1, 0, *range(2, 64)]
    return change_blocks(cache, "value_scales", lambda scales: scales[..., order])


def lambda_dropped(cache: Cache) -> Cache:
    return dataclasses.replace(cache, key_norm_BHkvD=torch.ones_like(cache.key_norm_BHkvD))


def block_off_by_one(cache: Cache) -> Cache:
    return change_blocks(cache, "key_codes", lambda codes: codes.roll(1, 2))


def window_slot_off_by_one(cache: Cache) -> Cache:
    return dataclasses.replace(cache, window_B2HkvWD=cache.window_B2HkvWD.roll(1, 3))


FAULTS = (one_code, two_scales_swapped, lambda_dropped, block_off_by_one, window_slot_off_by_one)


@pytest.fixture
def climb(torch_model, tiny_checkpoint):
    """Climb with these rungs on the reference, spoiled by `fault` in `layer`; returns the ladder."""
    shape = tiny_checkpoint.shape
    streams_BT = token_streams(tiny_checkpoint.folder, shape.vocab, 2, max(CASE.totals))

    def run(*rungs, fault=None, layer: int = 1) -> Ladder:
        def damage(index: int, cache: Cache) -> Cache:
            return fault(cache) if fault and index == layer else cache

        runner = EmulatedRunner(torch_model, CONFIG, shape, "float16", damage)
        ladder = Ladder(CONFIG, shape, "float16", runner, torch_model, rungs)
        with runner:
            ladder.climb(CASE, streams_BT, lambda: None)
        return ladder

    return run


def test_the_reference_passes_its_own_ladder(climb, torch_model, tiny_checkpoint) -> None:
    streams_BT = token_streams(tiny_checkpoint.folder, 264, 2, max(CASE.totals) + 1)
    unquantised = torch.stack([torch_model.unquantised(ids) for ids in streams_BT])
    rungs = (CacheRung(), AttentionRung(2, "float16"), KeysValuesRung(2, "float16"), LogitsRung(2, "float16"))
    ladder = climb(*rungs, UnquantisedRung(unquantised, streams_BT))
    assert ladder.finding is None
    assert [result.status for result in ladder.results()] == ["passed"] * 4 + ["reported"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_spoiled_cache_is_caught_by_the_first_rung(fault, layer, climb) -> None:
    ladder = climb(CacheRung(), AttentionRung(2, "float16"), fault=fault, layer=layer)
    assert ladder.finding is not None
    assert (ladder.finding.rung, ladder.finding.layer) == ("cache", layer)
    assert ladder.results()[1].status == "not run"


@pytest.mark.parametrize("fault", FAULTS[1:])
def test_the_tolerance_of_logits_sees_faults_that_the_other_rungs_are_not_asked_about(fault, climb) -> None:
    finding = climb(LogitsRung(2, "float16"), fault=fault).finding
    assert finding is not None and finding.rung == "logits"
    assert float(finding.got.split()[0]) < 30
    assert float(finding.expected.split()[2]) > 40


@pytest.mark.parametrize("fault", FAULTS[2:])
def test_so_does_the_tolerance_of_attention(fault, climb) -> None:
    finding = climb(AttentionRung(2, "float16"), fault=fault).finding
    assert finding is not None and (finding.rung, finding.layer) == ("attention", 1)


def test_one_code_is_too_little_for_logits_which_is_why_codes_are_compared_exactly(climb) -> None:
    assert climb(LogitsRung(2, "float16"), fault=one_code).finding is None


def test_keys_and_values_that_overflow_are_a_finding_not_a_traceback(climb, monkeypatch) -> None:
    step = EmulatedRunner.step

    def overflow(self, ids_BS, new_length_B):
        seen = step(self, ids_BS, new_length_B)
        bad = dataclasses.replace(seen.layers[1], key_BHkvSD=seen.layers[1].key_BHkvSD * torch.inf)
        return dataclasses.replace(seen, layers=(seen.layers[0], bad))

    monkeypatch.setattr(EmulatedRunner, "step", overflow)
    finding = climb(CacheRung()).finding
    assert finding is not None and finding.layer == 1 and "cannot be quantised" in finding.what
