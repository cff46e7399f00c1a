"""Figures of agreement: dB, KL divergence, top-1 and top-5, likelihood. fp64 arithmetic throughout."""

from __future__ import annotations

import torch
from torch import Tensor


def decibels(reference: Tensor, got: Tensor) -> Tensor:
    """Return 20 log10(norm of reference / norm of difference) over the last axis; inf where equal, -inf for NaN."""
    reference, got = reference.double(), got.double()
    noise = (got - reference).norm(dim=-1)
    level = 20 * torch.log10(reference.norm(dim=-1) / noise)
    level = torch.where(noise == 0, torch.inf, level)
    return torch.nan_to_num(level, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def kl_divergence(reference: Tensor, got: Tensor) -> Tensor:
    """Return KL(softmax(reference) || softmax(got)) in nats over the last axis."""
    expected, observed = reference.double().log_softmax(-1), got.double().log_softmax(-1)
    return (expected.exp() * (expected - observed)).sum(-1)


def top1_agrees(reference: Tensor, got: Tensor) -> Tensor:
    """Return whether both logits have the same largest entry, over the last axis."""
    return reference.argmax(-1) == got.argmax(-1)


def top5_overlap(reference: Tensor, got: Tensor) -> Tensor:
    """Return which share of the reference's five largest entries are among the other's five, over the last axis."""
    count = min(5, reference.shape[-1])
    first, second = (x.topk(count, dim=-1).indices for x in (reference, got))
    return (first[..., :, None] == second[..., None, :]).any(-1).double().mean(-1)


def negative_log_likelihood(logits: Tensor, token: int) -> float:
    """Return -log softmax(logits)[token] in nats."""
    return -logits.double().log_softmax(-1)[token].item()
