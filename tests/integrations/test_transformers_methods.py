"""The cache's methods: beams, selection, crop, reset, growth, copies; and every refusal with its fix."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from innerq_export.errors import ConfigError
from innerq_export.integrations.transformers import InnerQCache, innerq_attention
from tests.integrations.hf import GREEDY, load, prompts, short

TOKENS = 62  # with sink 4 and recent 8: one block, and 18 tokens after it


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint.folder)


@pytest.fixture(scope="module", params=["reference", "kernels"])
def setting(request, model, tiny_checkpoint):
    """A model and the options of a cache: fp32 on the reference, fp16 on the host build of the kernels."""
    if request.param == "reference":
        return model, {}
    return load(tiny_checkpoint.folder, torch.float16), {"kernels": request.getfixturevalue("host_library")}


@torch.no_grad()
def feed(model, cache, ids):
    return model(ids, past_key_values=cache).logits[:, -1]


def fed(setting, ids, *, one_by_one=0, **more):
    model, options = setting
    cache = InnerQCache(model.config, preset=short(), **options, **more)
    first = ids.shape[1] - one_by_one
    feed(model, cache, ids[:, :first])
    for t in range(first, ids.shape[1]):
        feed(model, cache, ids[:, t : t + 1])
    return cache


def test_beams_without_a_block_are_those_of_a_plain_cache(model):
    ids, options = prompts(2, 9), {"num_beams": 3, "max_new_tokens": 3, **GREEDY}
    wanted = model.generate(ids, past_key_values=DynamicCache(config=model.config), **options)
    assert torch.equal(model.generate(ids, past_key_values=InnerQCache(model.config), **options), wanted)


def test_a_beams_score_is_that_of_its_tokens_fed_alone(setting):
    model, options = setting
    ids = prompts(2, TOKENS)
    cache = InnerQCache(model.config, preset=short(), **options)
    out = model.generate(
        ids, past_key_values=cache, num_beams=3, max_new_tokens=20, length_penalty=0.0, output_scores=True,
        return_dict_in_generate=True, **GREEDY,
    )  # fmt: skip
    for row, said in enumerate(out.sequences[:, TOKENS:]):
        alone, total, new = InnerQCache(model.config, preset=short(), **options), 0.0, ids[row : row + 1]
        for token in said:
            total += float(feed(model, alone, new).float().log_softmax(-1)[0, token])
            new = token[None, None]
        assert total == pytest.approx(float(out.sequences_scores[row]), abs=5e-2 if options else 1e-3)


def test_reorder_select_and_repeat_are_rows_fed_in_that_order(setting):
    model, ids, more = setting[0], prompts(3, TOKENS), prompts(3, 40, seed=1)
    for change, rows in (
        (lambda c: c.reorder_cache(torch.tensor([2, 0, 0])), [2, 0, 0]),
        (lambda c: c.batch_select_indices(torch.tensor([2, 1])), [2, 1]),
        (lambda c: c.batch_repeat_interleave(2), [0, 0, 1, 1, 2, 2]),
    ):
        cache = fed(setting, ids)
        change(cache)
        assert cache.batch_size == len(rows)
        got = feed(model, cache, more[[row % 3 for row in rows]])
        wanted = feed(model, fed(setting, ids[rows]), more[[row % 3 for row in rows]])
        torch.testing.assert_close(got, wanted, rtol=0, atol=2e-2 if setting[1] else 1e-4)


@torch.no_grad()
def test_rows_of_different_length_are_reordered_with_their_lengths(setting):
    model, rows = setting[0], torch.tensor([2, 0, 0])
    ids, more, mask = prompts(3, TOKENS), prompts(3, 40, seed=1), torch.ones(3, TOKENS + 40, dtype=torch.long)
    mask[1, :20], mask[2, :41] = 0, 0

    def said(order, change=lambda cache: None):
        cache = InnerQCache(model.config, short(), **setting[1])
        model(ids[order], attention_mask=mask[order, :TOKENS], past_key_values=cache)
        change(cache)
        assert cache.length_B.tolist() == [21, 62, 62]
        return model(more, attention_mask=mask[rows], past_key_values=cache).logits[:, -1]

    got = said(torch.arange(3), lambda cache: cache.reorder_cache(rows))
    torch.testing.assert_close(got, said(rows), rtol=0, atol=2e-2 if setting[1] else 1e-4)


def test_reorder_keeps_the_addresses(setting):
    cache = fed(setting, prompts(2, TOKENS))
    if not setting[1]:
        pytest.skip("the reference replaces its tensors")
    before = [layer.store.cache.blocks.data_ptr() for layer in cache.layers] + [cache.length_B.data_ptr()]
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.reset()
    assert before == [layer.store.cache.blocks.data_ptr() for layer in cache.layers] + [cache.length_B.data_ptr()]


@settings(max_examples=25, deadline=None)
@given(length=st.integers(40, 90), remove=st.integers(1, 50))
def test_crop_is_as_if_never_fed_or_refused(model, length, remove):
    decoded = min(remove, length - 1)
    ids, more = prompts(1, length), prompts(1, 60, seed=1)
    cache = fed((model, {}), ids, one_by_one=decoded)
    blocks_after = max(0, (length - remove - 12) // 32)
    possible = remove <= length and (4 + 32 * blocks_after >= min(length - 40, length - remove))
    if not possible:
        with pytest.raises(ConfigError, match="crop"):
            cache.crop(-remove)
        return
    cache.crop(-remove)
    assert cache.get_seq_length() == length - remove
    if length > remove:
        shorter = fed((model, {}), ids[:, : length - remove])
        assert torch.equal(feed(model, cache, more), feed(model, shorter, more))


def test_crop_of_packed_blocks_that_were_just_made(setting):
    model, _ = setting
    ids, more = prompts(1, 76), prompts(1, 60, seed=1)
    cache = fed(setting, ids, one_by_one=5)  # 76 = 4 + 8 + 64: the second block was made by the last token
    cache.crop(-5)
    got, wanted = feed(model, cache, more), feed(model, fed(setting, ids[:, :71]), more)
    assert torch.equal(got, wanted)


def test_what_crop_takes_back_is_room_again(model):
    cache = fed((model, {}), prompts(1, 20), max_tokens=20)
    cache.crop(-3)
    feed(model, cache, prompts(1, 3))
    assert cache.get_seq_length() == 20


def test_reset_starts_again_in_the_same_memory(setting):
    model, ids = setting[0], prompts(2, TOKENS)
    cache = fed(setting, prompts(2, TOKENS, seed=5), max_tokens=TOKENS)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(feed(model, cache, ids), feed(model, InnerQCache(model.config, short(), **setting[1]), ids))


def test_growth_does_not_change_what_is_said(setting):
    model, ids = setting[0], prompts(1, 400)
    grown, given_room = (fed(setting, ids[:, :200], **more) for more in ({}, {"max_tokens": 400}))
    for chunk in (ids[:, 200:399], ids[:, 399:]):
        assert torch.equal(feed(model, grown, chunk), feed(model, given_room, chunk))


def test_a_copy_is_a_prefix_for_another_text(setting):
    model, prefix, more = setting[0], fed(setting, prompts(1, TOKENS)), prompts(1, 40, seed=1)
    first = feed(model, copy.deepcopy(prefix), more)
    assert torch.equal(feed(model, copy.deepcopy(prefix), more), first)
    assert prefix.get_seq_length() == TOKENS


def test_ragged_rows_are_as_if_alone(setting):
    model, ids = setting[0], prompts(3, TOKENS)
    cache = InnerQCache(model.config, preset=short(), **setting[1])
    lengths = torch.tensor([TOKENS, 40, 0], dtype=torch.int32)
    with torch.no_grad(), cache.ragged(lengths):
        logits = model(ids, past_key_values=cache).logits
    assert cache.length_B.tolist() == lengths.tolist()
    alone = feed(model, InnerQCache(model.config, preset=short(), **setting[1]), ids[1:2, :40])
    torch.testing.assert_close(logits[1, 39], alone[0], rtol=0, atol=2e-2 if setting[1] else 1e-4)


def test_the_wrong_model_is_told_the_fix(model, tiny_checkpoint):
    other = load(tiny_checkpoint.folder)
    cache = InnerQCache(model.config)
    for implementation in ("sdpa", "eager"):
        other.set_attn_implementation(implementation)
        with pytest.raises(ConfigError, match=r'fix: .*set_attn_implementation\("innerq"\)'):
            other.generate(prompts(1, 5), past_key_values=cache, max_new_tokens=1, **GREEDY)
    other.set_attn_implementation("innerq")
    assert other.generate(prompts(1, 5), past_key_values=cache, max_new_tokens=1, **GREEDY).shape == (1, 6)


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (torch.ones(1, 1, 6, 6), "two-dimensional"),
        (torch.tensor([[1, 0, 1, 1, 1, 1]]), "holes"),
        (torch.ones(1, 5), "shape"),
    ],
)
def test_masks_that_cannot_be_held(model, mask, match):
    with pytest.raises(ConfigError, match=match):
        model(prompts(1, 6), attention_mask=mask, past_key_values=InnerQCache(model.config))


def test_a_past_that_is_masked_later(model):
    cache = fed((model, {}), prompts(1, 20))
    with pytest.raises(ConfigError, match="its past is not what the cache holds"):
        model(prompts(1, 1), attention_mask=torch.tensor([[0] + [1] * 20]), past_key_values=cache)


def test_no_room(model):
    cache = fed((model, {}), prompts(1, 20), max_tokens=21)
    feed(model, cache, prompts(1, 1))
    with pytest.raises(ConfigError, match=r"at most 21 tokens"):
        feed(model, cache, prompts(1, 1))
    assert cache.get_seq_length() == 21
    with pytest.raises(ConfigError, match="no room"):
        cache.count(1)


def test_assistants_are_refused(model):
    with pytest.raises(ConfigError, match="assisted decoding"):
        model.generate(
            prompts(1, 9), past_key_values=InnerQCache(model.config), prompt_lookup_num_tokens=3, max_new_tokens=4,
            **GREEDY,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("feature", "match"),
    [({"softcap": 30.0}, "soft-capped"), ({"sliding_window": 4}, "sliding"), ({"dropout": 0.1}, "dropout")],
)
def test_attention_that_is_not_computed_is_refused(model, feature, match):
    cache, rows = InnerQCache(model.config), torch.zeros(1, 2, 5, 64)
    key, value = cache.update(rows, rows, 0)
    with pytest.raises(ConfigError, match=match):
        innerq_attention(model, torch.zeros(1, 4, 5, 64), key, value, None, **feature)


def test_layers_on_several_devices_are_refused(model):
    cache = InnerQCache(model.config)
    cache.update(torch.zeros(1, 2, 5, 64), torch.zeros(1, 2, 5, 64), 0)
    with pytest.raises(ConfigError, match="several devices"):
        cache.update(*[torch.zeros(1, 2, 5, 64, device="meta")] * 2, 1)


def test_early_initialization_is_where_tokens_go(setting):
    model, ids = setting[0], prompts(2, TOKENS)
    early = InnerQCache(model.config, short(), max_tokens=TOKENS, **setting[1])
    early.early_initialization(2, 2, 64, model.dtype, model.device)
    assert early.is_initialized and early.get_max_length() == TOKENS
    stores = [layer.store for layer in early.layers]
    assert torch.equal(feed(model, early, ids), feed(model, InnerQCache(model.config, short(), **setting[1]), ids))
    assert stores == [layer.store for layer in early.layers]


def test_a_prompt_in_chunks(setting):
    model, ids = setting[0], prompts(1, TOKENS)
    cache = InnerQCache(model.config, short(), **setting[1])
    out = model.generate(ids, past_key_values=cache, prefill_chunk_size=25, max_new_tokens=3, **GREEDY)
    chunked = InnerQCache(model.config, short(), **setting[1])
    for chunk in ids.split(25, 1):
        logits = feed(model, chunked, chunk)
    assert int(out[0, TOKENS]) == int(logits.argmax())


def test_configs_that_are_none(model):
    with pytest.raises(ConfigError, match=r"model\.config"):
        InnerQCache(model)
    with pytest.raises(ConfigError, match="crop"):
        InnerQCache(model.config).crop(3)


def test_single_precision_is_not_for_the_kernels(model, host_library):
    with pytest.raises(ConfigError, match="float16 or bfloat16"):
        feed(model, InnerQCache(model.config, kernels=host_library), prompts(1, 5))
