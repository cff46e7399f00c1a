"""Attend counts its work in 32 bits: more is refused before anything is launched. Needs the CUDA build, but no card."""

from __future__ import annotations

import ctypes

import pytest
import torch

from innerq_export.errors import EnvironmentMismatchError
from innerq_export.integrations import calls, views
from innerq_export.integrations.cache import empty_packed_cache
from innerq_export.integrations.library import KernelError, load
from innerq_export.spec import CacheConfig

REFUSED = rf"[^;]* at most {(1 << 31) - 1}\n +fix: +"
MOST_BLOCKS = 1 << 25
"""The most blocks of a sequence that the C ABI takes: 2^30 tokens."""


@pytest.fixture(scope="module")
def library():
    try:
        return load("cuda")
    except EnvironmentMismatchError as error:
        pytest.skip(f"needs the CUDA build: {error.what}")


def attend(library, query_heads=2, tokens=1, paged=False, **claims):
    """Attend of two empty sequences with two KV heads whose cache claims more room than its tensors have."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = empty_packed_cache(CacheConfig(), 2, 2, 64, 4, device=device, page_blocks=2 if paged else 0)
    query, rows = (torch.zeros(2, heads, tokens, 64, dtype=torch.float16, device=device) for heads in (query_heads, 2))
    none = torch.zeros(2, dtype=torch.int32, device=device)
    args = views.attend_view(query, rows, rows, torch.empty_like(query), none, none)
    config, view = views.config_view(cache), views.cache_view(cache)
    for name, value in claims.items():
        setattr(view, name, value)
    refs = [ctypes.byref(struct) for struct in (config, view)]
    size = library.size_of("innerq_attend_workspace_bytes", *refs, query_heads, tokens)
    workspace = calls.scratch(cache, size)
    library.call("innerq_attend", *refs, ctypes.byref(args), workspace.data_ptr(), size, calls.stream_of(cache))
    if device == "cuda":
        torch.cuda.synchronize()


def taken(*arguments, **claims):
    """Whether such an attend gets past its checks: it runs, or has no card to run on."""
    try:
        attend(*arguments, **claims)
    except KernelError as error:
        return "no usable CUDA device" in str(error)
    return True


def test_too_many_records_in_a_pool_are_refused(library):
    pool = {"page_blocks": 1 << 15, "paged": True}
    assert taken(library, pages=(1 << 15) - 1, **pool)
    with pytest.raises(EnvironmentMismatchError, match=rf"room for {1 << 31} records{REFUSED}use several pools"):
        attend(library, pages=1 << 15, **pool)


def test_too_many_blocks_of_work_are_refused(library):
    assert taken(library, 8, 1, capacity_blocks=MOST_BLOCKS)
    with pytest.raises(EnvironmentMismatchError, match=rf"blocks of work{REFUSED}split the batch"):
        attend(library, 32, 16, capacity_blocks=MOST_BLOCKS)
