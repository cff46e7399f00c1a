"""A whole model at once equals the same model decoded token by token over the reference's caches."""

from __future__ import annotations

import pytest
import torch

from innerq_export.errors import EnvironmentMismatchError
from innerq_export.eval.calibrate import calibrated_key_norms
from innerq_export.eval.model import pick_device
from innerq_export.eval.plans import Sizes, full_precision, keys_only
from innerq_export.parity.torch_model import TorchModel
from innerq_export.reference import append, attend, empty_cache
from innerq_export.reference.innerq_scheme import innerq_scheme
from innerq_export.spec import CacheConfig, blocks_of, preset

CONFIG = CacheConfig(key_bits=4, value_bits=4, sink=8, recent=16)
PROMPT, TOKENS = 60, 130
TOLERANCE = 2e-3  # logits of about 3: sums in another order move a key across an fp16 step now and then


@pytest.fixture(scope="module")
def ids(source):
    return source.windows(1, TOKENS, 0)


@pytest.fixture(scope="module")
def stepwise(tiny_checkpoint, ids):
    """Logits [1, N, V] of the tokens after the prompt, one call each, every layer over a reference cache."""
    model = TorchModel(tiny_checkpoint.folder, "float16")
    shape = tiny_checkpoint.shape
    room = blocks_of(CONFIG, TOKENS)
    caches = [empty_cache(CONFIG, 1, shape.kv_heads, shape.head_dim, room) for _ in range(shape.layers)]

    def attention(layer, query, key, value, scale):
        past, new = caches[layer].length_B, torch.tensor([query.shape[2]])
        caches[layer] = append(caches[layer], key.half(), value.half(), new)
        return attend(caches[layer], query, key.half(), value.half(), past, new, scale)

    logits, past = [], 0
    for new in [PROMPT] + [1] * (TOKENS - PROMPT):
        position = torch.arange(past, past + new)[None]
        logits.append(model.with_attention(ids[:, past : past + new], position, attention)[:, -1:])
        past += new
    return torch.cat(logits[1:], dim=1)


def at_once(decoder, ids, config, **options):
    schemes = (innerq_scheme(config, "tried"),) * decoder.layers
    return decoder.decode(decoder.read(ids[:, :PROMPT]), ids[:, PROMPT:], schemes, **options)


def test_equal_to_decoding_token_by_token(decoder, ids, stepwise):
    got = at_once(decoder, ids, CONFIG).logits_BNV
    torch.testing.assert_close(got, stepwise, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("change", [{"recent": 15}, {"sink": 7}, {"key_bits": 3}, {"value_mode": "asymmetric"}])
def test_the_tolerance_sees_another_configuration(decoder, ids, stepwise, change):
    """Mutation: the smallest change of a field is far outside the tolerance."""
    got = at_once(decoder, ids, CONFIG.replace(**change)).logits_BNV
    assert (got - stepwise).abs().max() > 10 * TOLERANCE


def test_a_batch_is_its_sequences(decoder, source):
    ids = source.windows(2, TOKENS, 3)
    both = at_once(decoder, ids, CONFIG).logits_BNV
    for b in range(2):
        torch.testing.assert_close(
            at_once(decoder, ids[b : b + 1], CONFIG).logits_BNV[0], both[b], rtol=0, atol=TOLERANCE
        )


def test_full_precision_is_the_model_itself(decoder, tiny_checkpoint, ids):
    plain = TorchModel(tiny_checkpoint.folder, "float16").unquantised(ids[0])
    plan = full_precision(Sizes(decoder.layers, decoder.head_dim))
    got = decoder.decode(decoder.read(ids[:, :PROMPT]), ids[:, PROMPT:], plan.schemes).logits_BNV[0]
    assert (got - plain[PROMPT:]).abs().max() < 0.02  # keys and values are rounded to fp16 here, not there


def test_no_prompt_at_all(decoder, ids):
    scheme = (innerq_scheme(CONFIG, "tried"),) * decoder.layers
    logits = decoder.decode(decoder.read(ids[:, :0]), ids, scheme).logits_BNV
    assert logits.shape == (1, TOKENS, 264)


def test_attention_levels_are_local_to_each_layer(decoder, ids):
    """Quantising only layer 1 leaves layer 0 without noise; fewer bits mean fewer dB, about 6 a bit."""
    levels = {}
    for bits in (3, 4):
        scheme = innerq_scheme(CONFIG.replace(key_bits=bits, value_bits=bits), "tried")
        decoded = decoder.decode(decoder.read(ids[:, :PROMPT]), ids[:, PROMPT:], (None, scheme), measure=True)
        levels[bits] = decoded.attention_db
    assert levels[3][0] == levels[4][0] == float("inf")
    assert 3 < levels[4][1] - levels[3][1] < 9


def test_keys_only_leaves_values_alone(decoder, ids):
    full = decoder.decode(decoder.read(ids[:, :PROMPT]), ids[:, PROMPT:], (None, None)).logits_BNV
    both = at_once(decoder, ids, CONFIG).logits_BNV
    schemes = (keys_only(innerq_scheme(CONFIG, "tried")),) * 2
    half = decoder.decode(decoder.read(ids[:, :PROMPT]), ids[:, PROMPT:], schemes).logits_BNV
    assert not torch.equal(half, full)
    assert not torch.equal(half, both)


def test_calibrated_lambdas_are_equal_in_a_rope_pair_and_bound_the_keys(decoder, ids):
    norms = calibrated_key_norms(decoder, ids)
    keys = decoder.read(ids).keys
    for norm, key in zip(norms, keys, strict=True):
        assert norm.shape == (2, 64)
        assert torch.equal(norm[:, :32], norm[:, 32:])
        assert (key.abs().amax((0, 2)) <= norm.float().square() * 1.002).all()
    schemes = tuple(innerq_scheme(preset("balanced").replace(key_norm="folded"), "f", norm) for norm in norms)
    read = schemes[0].read_back(keys[0], keys[0], 0)[0]
    plain = innerq_scheme(preset("balanced").replace(key_norm="none"), "n").read_back(keys[0], keys[0], 0)[0]
    assert not torch.equal(read, plain)


def test_a_card_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu"
    with pytest.raises(EnvironmentMismatchError, match="--device cuda"):
        pick_device("cuda")
