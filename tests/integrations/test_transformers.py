"""`generate` with an InnerQCache says what the reference says, whatever the preset, family, batch and padding."""

from __future__ import annotations

import functools

import pytest
import torch
from transformers import AutoConfig

from innerq_export.checkpoint.demo import demo_folder
from innerq_export.errors import ConfigError
from innerq_export.integrations.transformers import InnerQCache
from innerq_export.spec import PRESETS, preset
from tests.integrations.hf import FAMILIES, GREEDY, load, prompts, reference_greedy, short
from tests.models import tiny_model


@pytest.fixture(scope="module")
def demo():
    return load(demo_folder())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Tiny models by family, each made once."""
    return functools.cache(lambda name: load(tiny_model(tmp_path_factory.mktemp(name), name)))


def greedy(model, ids, new=12, **more):
    out = model.generate(ids, max_new_tokens=new, **GREEDY, **more)
    return out[:, ids.shape[1] :].tolist()


def left_padded(ids, *pads):
    mask = torch.ones_like(ids)
    for row, pad in enumerate(pads):
        mask[row, :pad] = 0
    return mask


@pytest.mark.parametrize("name", PRESETS)
def test_the_demo_model_says_what_the_reference_says(demo, name):
    ids = prompts(1, 180)
    cache = InnerQCache(demo.config, preset=name)
    assert greedy(demo, ids, 40, past_key_values=cache) == [reference_greedy(demo, preset(name), ids[0], 40)]
    assert (cache.get_seq_length(), cache.length_B.tolist()) == (219, [219])


@pytest.mark.parametrize("family", FAMILIES)
def test_families(tiny, family):
    model, ids = tiny(family), prompts(1, 60)
    got = greedy(model, ids, past_key_values=InnerQCache(model.config, preset=short()))
    assert got == [reference_greedy(model, short(), ids[0], 12)]


@pytest.mark.parametrize(("family", "why"), [("gemma2", "soft-capped"), ("gpt_oss", "sinks")])
def test_families_that_are_refused_by_name(tiny, family, why):
    model = tiny(family)
    with pytest.raises(ConfigError, match=why):
        greedy(model, prompts(1, 9), past_key_values=InnerQCache(model.config))


def test_layers_without_attention_are_refused():
    with pytest.raises(ConfigError, match="linear_attention"):
        InnerQCache(AutoConfig.for_model("qwen3_next"))


def test_quantising_matters_here(tiny):
    model, ids = tiny("llama"), prompts(1, 60)
    assert greedy(model, ids, past_key_values=InnerQCache(model.config, preset=short())) != greedy(model, ids)


def test_every_row_of_a_left_padded_batch_is_as_if_alone(tiny):
    model, ids = tiny("llama"), prompts(3, 60)
    got = greedy(
        model,
        ids,
        attention_mask=left_padded(ids, 0, 37, 11),
        past_key_values=InnerQCache(model.config, preset=short()),
    )
    for row, pad in enumerate((0, 37, 11)):
        assert got[row] == reference_greedy(model, short(), ids[row, pad:], 12)


def test_a_second_prompt_continues_the_cache(tiny):
    model, ids = tiny("llama"), prompts(1, 70)
    cache = InnerQCache(model.config, preset=short())
    first = model.generate(ids[:, :40], max_new_tokens=5, past_key_values=cache, **GREEDY)
    longer = torch.cat([first, ids[:, 40:]], 1)
    got = model.generate(longer, max_new_tokens=5, past_key_values=cache, **GREEDY)
    assert cache.get_seq_length() == got.shape[1] - 1
    assert torch.equal(got[:, : longer.shape[1]], longer)


def test_the_model_without_the_cache_is_as_before(tiny):
    model, ids = tiny("qwen2"), prompts(2, 30)
    mask = left_padded(ids, 0, 9)
    model.set_attn_implementation("sdpa")
    before = greedy(model, ids, attention_mask=mask)
    InnerQCache(model.config)
    assert greedy(model, ids, attention_mask=mask) == before
    with torch.no_grad():
        under_innerq = model(ids, attention_mask=mask, use_cache=False).logits
        model.set_attn_implementation("sdpa")
        assert torch.equal(under_innerq, model(ids, attention_mask=mask, use_cache=False).logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernels_in_half_precision_are_near_the_reference(host_library, tiny_checkpoint, dtype):
    model, ids = load(tiny_checkpoint.folder, dtype), prompts(2, 60)
    mask = left_padded(ids, 0, 23)

    def logits(**options):
        cache = InnerQCache(model.config, preset=short(), **options)
        steps = [(ids[:, :50], mask[:, :50]), *((ids[:, t : t + 1], mask[:, : t + 1]) for t in range(50, 60))]
        with torch.no_grad():
            said = [model(x, attention_mask=m, past_key_values=cache).logits[:, -1] for x, m in steps]
        return torch.stack(said).float()

    got, wanted = logits(kernels=host_library), logits()
    assert (got - wanted).norm() <= (1e-2 if dtype == torch.float16 else 6e-2) * wanted.norm()
    assert not torch.equal(got, wanted)


@torch.no_grad()
def test_right_padding_never_enters_the_cache(tiny):
    model, ids = tiny("llama"), prompts(2, 60)
    mask = torch.ones_like(ids)
    mask[1, 41:] = 0
    cache = InnerQCache(model.config, preset=short())
    logits = model(ids, attention_mask=mask, past_key_values=cache).logits
    alone = InnerQCache(model.config, preset=short())
    wanted = model(ids[1:, :41], past_key_values=alone).logits
    assert cache.length_B.tolist() == [60, 41]
    torch.testing.assert_close(logits[1, :41], wanted[0], rtol=0, atol=1e-4)
    position = torch.tensor([[60], [41]])
    mask = torch.cat([mask, torch.ones(2, 1, dtype=mask.dtype)], 1)
    logits = model(ids[:, :1], attention_mask=mask, position_ids=position, past_key_values=cache).logits
    wanted = model(ids[1:, :1], past_key_values=alone).logits
    torch.testing.assert_close(logits[1, 0], wanted[0, 0], rtol=0, atol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_a_compiled_step_has_no_graph_break_and_says_the_same(tiny_checkpoint, host_library):
    model = load(tiny_checkpoint.folder, torch.float16)
    caches = [InnerQCache(model.config, preset=short(), max_tokens=80, kernels=host_library) for _ in range(2)]
    for cache in caches:
        cache.early_initialization(1, 2, 64, model.dtype, model.device)
        model(prompts(1, 60), past_key_values=cache)
    compiled = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    for t in range(60, 63):
        step = {"input_ids": prompts(1, 1, seed=t), "position_ids": torch.tensor([[t]])}
        wanted, got = (run(**step, past_key_values=x).logits for run, x in zip((model, compiled), caches, strict=True))
        torch.testing.assert_close(got, wanted, rtol=0, atol=5e-2)
    assert caches[1].length_B.tolist() == [63]
    assert caches[1].get_seq_length() == 63
