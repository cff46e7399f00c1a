"""Bits per layer in use: InnerQCache with eval's allocation says, token by token, what eval computed at once."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from innerq_export.errors import ConfigError
from innerq_export.eval.auto import Allocation
from innerq_export.integrations.transformers import InnerQCache
from innerq_export.spec import CacheConfig, preset

PROMPT, TOKENS = 140, 200
ALLOCATION = Allocation(((4, 2), (2, 3)), 3.25, 0.0)


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint.folder, dtype="float32", local_files_only=True)


@torch.no_grad()
def stepwise(model, ids, configs):
    cache, logits, past = InnerQCache(model.config, configs), [], 0
    for new in [PROMPT] + [1] * (TOKENS - PROMPT):
        logits.append(model(ids[:, past : past + new], past_key_values=cache).logits[:, -1])
        past += new
    return torch.stack(logits[1:], dim=1)


def test_the_cache_does_what_was_measured(model, decoder, source):
    ids = source.windows(1, TOKENS, 5)
    configs = [CacheConfig.from_dict(one) for one in json.loads(json.dumps(ALLOCATION.to_dict()))["configs"]]
    expected = decoder.decode(decoder.read(ids[:, :PROMPT]), ids[:, PROMPT:], ALLOCATION.plan("auto").schemes)
    got = stepwise(model, ids, configs)
    other = stepwise(model, ids, configs[::-1])
    error, wrong = ((made - expected.logits_BNV).abs().mean() for made in (got, other))
    assert error < 0.02  # fp32 keys and values in this cache, fp16 in eval: a code flips now and then
    assert wrong > 10 * error


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ([preset("balanced")] * 3, "configurations of layers"),
        ([preset("balanced"), preset("balanced").replace(recent=64)], "sink and recent"),
    ],
)
def test_lists_that_do_not_fit_are_refused(model, configs, words):
    with pytest.raises(ConfigError, match=words):
        InnerQCache(model.config, configs)
