"""Sequences that join, fork and leave a pool say what each says alone; pages are counted, shared and never taken."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from innerq_export.errors import ConfigError
from innerq_export.integrations.pages import PageAllocator, PoolFullError
from innerq_export.integrations.pool import NO_PAGE, PagePool
from innerq_export.integrations.transformers import InnerQCache
from tests.integrations.hf import load, prompts, short

TOLERANCE = 2e-2  # fp16 logits of another batch; one wrong page moves them by more than 10


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return load(tiny_checkpoint.folder, torch.float16)


@pytest.fixture(scope="module", params=["kernels", "torch ops"])
def kernels(request):
    return request.getfixturevalue("host_library") if request.param == "kernels" else "auto"


def pool_for(model, kernels="auto", slots=3, pages=12, **more):
    sizes = {"max_tokens": 200, "page_blocks": 2} | more
    return PagePool(model.config, short(), slots=slots, pages=pages, kernels=kernels, **sizes)


@torch.no_grad()
def extend(model, pool, sequence, ids_S):
    position_S = torch.arange(sequence.length, sequence.length + len(ids_S))
    cache = pool.extend(sequence, len(ids_S))
    return model(ids_S[None], position_ids=position_S[None], past_key_values=cache).logits[0, -1]


@torch.no_grad()
def decode(model, pool, token_of):
    ids_B1 = torch.zeros(len(pool.length_B), 1, dtype=torch.long)
    for sequence, token in token_of.items():
        ids_B1[sequence.slot] = token
    cache = pool.decode(token_of)
    logits = model(ids_B1, position_ids=pool.length_B[:, None].long(), past_key_values=cache).logits[:, -1]
    return {sequence: logits[sequence.slot] for sequence in token_of}


@torch.no_grad()
def alone(model, kernels, *chunks):
    cache = InnerQCache(model.config, short(), kernels=kernels)
    for chunk in chunks:
        logits = model(chunk[None], past_key_values=cache).logits[0, -1]
    return logits


def near(got, wanted):
    return (got - wanted).abs().max() <= TOLERANCE


def singles(ids_S):
    return list(ids_S.split(1))


def test_a_running_batch_says_what_each_sequence_says_alone(model, kernels):
    pool, texts = pool_for(model, kernels), prompts(4, 100)
    first, second = pool.join(), pool.join()
    extend(model, pool, first, texts[0, :60])
    extend(model, pool, second, texts[1, :20])
    for t in range(5):
        said = decode(model, pool, {first: texts[0, 60 + t], second: texts[1, 20 + t]})
    assert near(said[first], alone(model, kernels, texts[0, :60], *singles(texts[0, 60:65])))
    assert near(said[second], alone(model, kernels, texts[1, :20], *singles(texts[1, 20:25])))
    pool.leave(first)
    assert (pool.table_BP[first.slot] == NO_PAGE).all()
    third = pool.join()
    assert third.slot == first.slot
    extend(model, pool, third, texts[2, :80])
    for t in range(5):
        said = decode(model, pool, {second: texts[1, 25 + t], third: texts[2, 80 + t]})
    assert near(said[second], alone(model, kernels, texts[1, :20], *singles(texts[1, 20:30])))
    assert near(said[third], alone(model, kernels, texts[2, :80], *singles(texts[2, 80:85])))
    pool.check()


def test_a_row_that_rests_is_left_as_it_is(model, kernels):
    pool, texts = pool_for(model, kernels), prompts(2, 90)
    resting, busy = pool.join(), pool.join()
    extend(model, pool, resting, texts[0, :60])
    extend(model, pool, busy, texts[1, :60])
    for t in range(20):
        decode(model, pool, {busy: texts[1, 60 + t]})
        if t == 10:
            extend(model, pool, resting, texts[0, 60:70])
    pool.check()
    wanted = alone(model, kernels, texts[0, :60], texts[0, 60:70], texts[0, 70:])
    assert near(extend(model, pool, resting, texts[0, 70:]), wanted)


@pytest.mark.parametrize("prefix", [5, 60, 76, 130])
def test_forks_share_full_pages_and_nothing_else(model, kernels, prefix):
    pool, texts = pool_for(model, kernels), prompts(3, 190)
    source = pool.join()
    extend(model, pool, source, texts[0, :prefix])
    before = pool.pages.free
    fork = pool.fork(source)
    full = max(0, (prefix - 12) // 32) // 2
    assert fork.pages[:full] == source.pages[:full]
    assert not set(fork.pages[full:]) & set(source.pages[full:])
    assert before - pool.pages.free == len(source.pages) - full
    for text, sequence in ((texts[1], fork), (texts[2], source)):
        extend(model, pool, sequence, text[:40])
    for text, sequence in ((texts[1], fork), (texts[2], source)):
        got = decode(model, pool, {sequence: text[40]})[sequence]
        assert near(got, alone(model, kernels, texts[0, :prefix], text[:40], text[40:41]))


def test_a_page_of_another_sequence_would_show(model, host_library):
    pool, texts = pool_for(model, host_library), prompts(2, 130)
    first, second = pool.join(), pool.join()
    for row, sequence in enumerate((first, second)):
        extend(model, pool, sequence, texts[row, :120])
    pool.table_BP[0, 0] = second.pages[0]
    got = decode(model, pool, {first: texts[0, 120]})[first]
    assert not near(got, alone(model, host_library, texts[0, :120], texts[0, 120:121]))


def test_shared_pages_outlive_the_sequence_that_made_them(model, host_library):
    pool, texts = pool_for(model, host_library, slots=2), prompts(2, 130)
    source = pool.join()
    extend(model, pool, source, texts[0, :120])
    fork = pool.fork(source)
    shared = [page for page in fork.pages if pool.pages.owners(page) == 2]
    assert shared and not set(pool.leave(source)) & set(shared)
    other = pool.join()
    extend(model, pool, other, texts[1, :120])
    got = extend(model, pool, fork, texts[0, 120:])
    assert near(got, alone(model, host_library, texts[0, :120], texts[0, 120:]))
    pool.leave(fork)
    pool.leave(other)
    assert pool.pages.free == pool.pages.total


def test_a_full_pool_refuses_and_harms_nobody(model, host_library):
    pool, texts = pool_for(model, host_library, slots=2, pages=3), prompts(2, 160)
    first, second = pool.join(), pool.join()
    extend(model, pool, first, texts[0, :140])  # 4 blocks, 2 pages
    extend(model, pool, second, texts[1, :75])  # 1 block, 1 page
    with pytest.raises(PoolFullError, match=r"no 1 free pages(.|\n)*let a sequence leave"):
        pool.extend(second, 64)
    with pytest.raises(PoolFullError, match="no free slot"):
        pool.join()
    assert (second.length, pool.length_B.tolist()) == (75, [140, 75])
    pool.leave(first)
    got = extend(model, pool, second, texts[1, 75:140])
    assert near(got, alone(model, host_library, texts[1, :75], texts[1, 75:140]))


def test_a_step_of_many_makes_room_for_all_or_none(model, host_library):
    pool, texts = pool_for(model, host_library, slots=2, pages=1), prompts(2, 43)
    both = [pool.join(), pool.join()]
    for row, sequence in enumerate(both):
        extend(model, pool, sequence, texts[row])  # the 44th token makes the first block
    with pytest.raises(PoolFullError):
        pool.decode(both)
    assert [s.length for s in both] == [43, 43] and pool.pages.free == 1
    decode(model, pool, {both[0]: 7})


def test_mistakes_are_named(model):
    pool = pool_for(model)
    sequence = pool.join()
    with pytest.raises(ConfigError, match="at most 200"):
        pool.extend(sequence, 201)
    pool.leave(sequence)
    for call in (pool.leave, pool.fork, lambda s: pool.extend(s, 1), lambda s: pool.decode([s])):
        with pytest.raises(ConfigError, match="has left the pool"):
            call(sequence)


def test_calls_that_the_pool_does_not_know_of_are_refused(model):
    pool = pool_for(model)
    sequence = pool.join()
    with pytest.raises(ConfigError, match=r"one call with no more tokens(.|\n)*generate\(\) does neither"):
        model.generate(prompts(1, 9), past_key_values=pool.extend(sequence, 9), max_new_tokens=3, pad_token_id=258)
    with pytest.raises(ConfigError, match="one call with 5 tokens"):
        model(prompts(1, 4), past_key_values=pool.extend(sequence, 5))
    with pytest.raises(ConfigError, match="one column"):
        model(prompts(3, 2), past_key_values=pool.decode([sequence]))
    view = pool.decode([sequence])
    for call in (view.reset, lambda: view.crop(-1), lambda: view.reorder_cache(torch.tensor([0, 1, 2]))):
        with pytest.raises(ConfigError, match="not on the rows of a page pool"):
            call()


def test_dropped_tokens_are_found(model, host_library):
    pool = pool_for(model, host_library)
    sequence = pool.join()
    extend(model, pool, sequence, prompts(1, 43)[0])
    pool.pages.take(pool.pages.free)
    sequence.pages.append(0)  # the host believes in a page that the table does not have
    decode(model, pool, {sequence: 7})
    with pytest.raises(AssertionError, match="dropped"):
        pool.check()


class Owners(RuleBasedStateMachine):
    """PageAllocator against a plain list of who holds what."""

    def __init__(self):
        super().__init__()
        self.pages, self.held = PageAllocator(8), []

    @rule(count=st.integers(0, 9))
    def take(self, count):
        if count > self.pages.free:
            before = self.pages.free
            with pytest.raises(PoolFullError):
                self.pages.take(count)
            assert self.pages.free == before
        else:
            self.held.append(self.pages.take(count))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def share(self, data):
        pages = list(data.draw(st.sampled_from(self.held)))
        self.pages.share(pages)
        self.held.append(pages)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        pages = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        left = {page for others in self.held for page in others}
        assert set(self.pages.release(pages)) == set(pages) - left

    @invariant()
    def counts_are_those_of_the_list(self):
        everything = [page for pages in self.held for page in pages]
        assert all(self.pages.owners(page) == everything.count(page) for page in range(8))
        assert self.pages.free == 8 - len(set(everything))


Owners.TestCase.settings = settings(max_examples=40, deadline=None)
TestOwners = Owners.TestCase
