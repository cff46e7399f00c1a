"""InnerQCache and PagePool on a card: near the reference, the same under a CUDA graph, beams and pages included."""

from __future__ import annotations

import pytest
import torch

from innerq_export.integrations.pool import PagePool
from innerq_export.integrations.transformers import InnerQCache
from tests.integrations.hf import GREEDY, load, prompts, short

pytestmark = pytest.mark.gpu
ERROR = {torch.float16: 6e-2, torch.bfloat16: 2e-1}  # other GEMMs round otherwise, so a few 3-bit codes fall otherwise


@pytest.fixture(scope="module", params=ERROR, ids=str)
def models(request, tiny_checkpoint, cuda_library):
    """The same weights on the CPU and on the card."""
    return load(tiny_checkpoint.folder, request.param), load(tiny_checkpoint.folder, request.param).cuda()


@torch.no_grad()
def logits_of(model, ids, mask, chunks, preset):
    cache, said, at = InnerQCache(model.config, preset), [], 0
    for count in chunks:
        ids_BS, mask_BT = (x.to(model.device) for x in (ids[:, at : at + count], mask[:, : at + count]))
        said.append(model(ids_BS, attention_mask=mask_BT, past_key_values=cache).logits[:, -1])
        at += count
    return torch.stack(said).float().cpu()


@pytest.mark.parametrize("preset", [short(), short("compact"), "quality"], ids=["balanced", "compact", "quality"])
def test_near_the_reference(models, preset):
    on_cpu, on_card = models
    ids = prompts(3, 230)
    mask = torch.ones_like(ids)
    mask[1, :150], mask[2, :7] = 0, 0
    chunks = [180, 3, 20, *[1] * 27]
    got, wanted = (logits_of(model, ids, mask, chunks, preset) for model in (on_card, on_cpu))
    assert (got - wanted).norm() <= ERROR[on_cpu.dtype] * wanted.norm()
    one_token_off = logits_of(on_card, ids.roll(1, 1), mask, chunks, preset)
    assert (one_token_off - wanted).norm() > 3 * ERROR[on_cpu.dtype] * wanted.norm()


def test_beams(models):
    _, model = models
    ids = prompts(2, 60).cuda()
    out = model.generate(
        ids, past_key_values=InnerQCache(model.config, short()), num_beams=3, max_new_tokens=20, length_penalty=0.0,
        output_scores=True, return_dict_in_generate=True, **GREEDY,
    )  # fmt: skip
    for row, said in enumerate(out.sequences[:, 60:]):
        alone, total, new = InnerQCache(model.config, short()), 0.0, ids[row : row + 1]
        for token in said:
            with torch.no_grad():
                logits = model(new, past_key_values=alone).logits[0, -1]
            total += float(logits.float().log_softmax(-1)[token])
            new = token[None, None]
        assert total == pytest.approx(float(out.sequences_scores[row]), abs=0.1 if model.dtype == torch.float16 else 1)


@torch.no_grad()
def test_a_captured_step_is_the_step(models):
    _, model = models
    ids, steps = prompts(2, 60).cuda(), 50
    eager = InnerQCache(model.config, short(), max_tokens=200)
    graphed = InnerQCache(model.config, short(), max_tokens=200)
    graphed.early_initialization(2, 2, 64, model.dtype, model.device)
    token_B1 = torch.zeros(2, 1, dtype=torch.long, device="cuda")

    def step():
        position_B1 = graphed.length_B[:, None].long()
        logits = model(token_B1, position_ids=position_B1, past_key_values=graphed).logits
        token_B1.copy_(logits[:, -1].argmax(-1, keepdim=True))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    graphed.reset()

    wanted = model(ids, past_key_values=eager).logits[:, -1].argmax(-1, keepdim=True)
    token_B1.copy_(model(ids, past_key_values=graphed).logits[:, -1].argmax(-1, keepdim=True))
    for _ in range(steps):
        wanted = model(wanted, past_key_values=eager).logits[:, -1].argmax(-1, keepdim=True)
        graphed.count(1)
        graph.replay()
        assert torch.equal(token_B1, wanted)
    assert graphed.length_B.tolist() == [60 + steps] * 2
    assert graphed.get_seq_length() == 60 + steps
    for ours, plain in zip(graphed.layers, eager.layers, strict=True):
        blocks = plain.store.cache.blocks[:, :, :3]
        assert torch.equal(ours.store.cache.blocks[:, :, :3], blocks)


@torch.no_grad()
def test_pages_on_the_card_are_the_contiguous_cache(models):
    _, model = models
    texts = prompts(2, 150).cuda()
    pool = PagePool(model.config, short(), slots=2, pages=8, page_blocks=1, max_tokens=200, dtype=model.dtype,
                    device="cuda")  # fmt: skip
    plain = InnerQCache(model.config, short())
    pages = [pool.join(), pool.join()]
    for row, sequence in enumerate(pages):
        cache = pool.extend(sequence, 100)
        model(texts[row : row + 1, :100], past_key_values=cache)
    model(texts[:, :100], past_key_values=plain)
    for t in range(100, 150):
        position_B1 = pool.length_B[:, None].long()
        got = model(texts[:, t : t + 1], position_ids=position_B1, past_key_values=pool.decode(pages)).logits
        wanted = model(texts[:, t : t + 1], past_key_values=plain).logits
    pool.check()
    assert (got - wanted).float().norm() <= ERROR[model.dtype] * wanted.float().norm()
    assert (got.flip(0) - wanted).float().norm() > 3 * ERROR[model.dtype] * wanted.float().norm()
