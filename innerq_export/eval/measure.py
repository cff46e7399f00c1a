"""One seed's figures: every plan on the same windows of text and the same needles, against the full-precision cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from innerq_export.eval.model import Decoded, Decoder
from innerq_export.eval.plans import Plan
from innerq_export.eval.text import Needle, Source, needles
from innerq_export.parity.metrics import kl_divergence

SLICE = 512
Tick = Callable[[str], None]


@dataclass(frozen=True)
class TextFigures:
    """One plan on one seed's text, over all decoded tokens; KL in nats, `attention_db` per layer."""

    perplexity: float
    kl_mean: float
    kl_p99: float
    top1: float
    attention_db: tuple[float, ...]


@dataclass(frozen=True)
class RecallFigures:
    """One plan on one cell of needles: the share whose every answer token is the likeliest."""

    tokens: int
    depth: float
    recall: float


def text_figures(
    decoder: Decoder, plans: Sequence[Plan], ids_BT: Tensor, prompt: int, tick: Tick
) -> Iterator[tuple[Plan, TextFigures]]:
    """Yield each plan's figures on B windows of T tokens, the first `prompt` of them one call."""
    told, rest = decoder.read(ids_BT[:, :prompt]), ids_BT[:, prompt:].to(decoder.device)
    expected = decoder.decode(told, rest, (None,) * decoder.layers)
    for plan in plans:
        tick(plan.name)
        quantises = any(plan.schemes)
        yield plan, _compare(expected, decoder.decode(told, rest, plan.schemes, quantises), rest)


def _compare(expected: Decoded, got: Decoded, ids_BN: Tensor) -> TextFigures:
    kls, agree, likelihood = [], [], []
    for reference_NV, logits_NV, ids_N in zip(expected.logits_BNV, got.logits_BNV, ids_BN, strict=True):
        for start in range(0, len(ids_N) - 1, SLICE):
            part = slice(start, min(start + SLICE, len(ids_N) - 1))
            kls.append(kl_divergence(reference_NV[part], logits_NV[part]).clamp(min=0))
            agree.append((reference_NV[part].argmax(-1) == logits_NV[part].argmax(-1)).double())
            score = logits_NV[part].double().log_softmax(-1)
            likelihood.append(score.gather(-1, ids_N[1:][part][:, None])[:, 0])
    kl = torch.cat(kls)
    return TextFigures(
        perplexity=math.exp(-torch.cat(likelihood).mean().item()),
        kl_mean=kl.mean().item(),
        kl_p99=kl.quantile(0.99).item(),
        top1=torch.cat(agree).mean().item(),
        attention_db=tuple(got.attention_db),
    )


def recall_figures(
    decoder: Decoder, plans: Sequence[Plan], cell: Sequence[Needle], tokens: int, depth: float, tick: Tick
) -> Iterator[tuple[Plan, RecallFigures]]:
    """Yield each plan's recall on needles of equal length; question and answer are decoded, the rest is the prompt."""
    rows = torch.tensor([needle.prompt + needle.tail for needle in cell])
    prompt = min(len(needle.prompt) for needle in cell)
    told, rest = decoder.read(rows[:, :prompt]), rows[:, prompt:].to(decoder.device)
    for plan in plans:
        tick(f"{plan.name}, needles of {tokens} tokens at {depth:.2f}")
        logits_BNV = decoder.decode(told, rest, plan.schemes).logits_BNV
        right = logits_BNV[:, :-1].argmax(-1) == rest[:, 1:]
        hits = [row[-needle.answer :].all().item() for row, needle in zip(right, cell, strict=True)]
        yield plan, RecallFigures(tokens, depth, sum(hits) / len(hits))


def needle_cells(
    source: Source, lengths: Sequence[int], depths: Sequence[float], count: int, seed: int
) -> Iterator[tuple[int, float, list[Needle]]]:
    """Yield (tokens, depth, needles) of every cell."""
    for tokens in lengths:
        for depth in depths:
            yield tokens, depth, needles(source, count, tokens, depth, seed)
