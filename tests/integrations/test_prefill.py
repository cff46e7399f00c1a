"""The prefill path against the reference, on CPU tensors through the host build."""

from __future__ import annotations

import pytest
import torch

from innerq_export import reference
from innerq_export.integrations import calls
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.integrations.prefill import prefill
from innerq_export.spec import preset

CONFIG = preset("balanced").replace(sink=4, recent=8)


def lengths(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("past", [(0, 0), (60, 60), (75, 20), (40, 0)])
@pytest.mark.parametrize("new", [(40, 40), (17, 40)])
def test_prefill_is_attention_over_the_cache(host_library, new_tokens, past, new):
    packed = empty_packed_cache(CONFIG, 2, 2, 64, 6)
    expected = reference.empty_cache(CONFIG, 2, 2, 64, 6)
    for start, count, seed in ((lengths(0, 0), lengths(*past), 1), (lengths(*past), lengths(*new), 3)):
        tokens = max(1, int(count.max()))
        key, value = new_tokens(tokens=tokens, seed=seed), new_tokens(tokens=tokens, seed=seed + 1)
        for b, held in enumerate(count.tolist()):
            key[b, :, held:] = value[b, :, held:] = torch.nan
        calls.append(host_library, packed, key, value, start, count)
        expected = reference.append(expected, key, value, count)
    query = new_tokens(heads=4, tokens=40, seed=9)
    got = prefill(host_library, packed, query, key, value, lengths(*past), lengths(*new))
    wanted = reference.attend(expected, query, key, value, lengths(*past), lengths(*new))
    assert (got.float() - wanted.float()).norm() <= 2e-3 * wanted.float().norm()
    assert not got[0, :, new[0] :].any()


def test_one_row_too_far_would_show(host_library, new_tokens):
    packed = empty_packed_cache(CONFIG, 1, 2, 64, 6)
    key, value = new_tokens(batch=1, tokens=40, seed=1), new_tokens(batch=1, tokens=40, seed=2)
    query = new_tokens(batch=1, heads=4, tokens=40, seed=3)
    calls.append(host_library, packed, key, value, lengths(0), None)
    good = prefill(host_library, packed, query, key, value, lengths(0), lengths(40))
    shifted = prefill(host_library, packed, query, key.roll(1, 2), value.roll(1, 2), lengths(0), lengths(40))
    assert (good - shifted).float().norm() > 2e-3 * good.float().norm()
