"""dB, KL and top-1 against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from innerq_export.parity.metrics import decibels, kl_divergence, top1_agrees


def test_decibels() -> None:
    reference = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    got = torch.tensor([[3.0, 4.5], [1.0, 0.0], [2.0, 0.0], [torch.nan, 0.0]])
    assert decibels(reference, got).tolist() == pytest.approx([20.0, math.inf, 0.0, -math.inf])


def test_a_reference_of_zero_allows_nothing_else() -> None:
    zero = torch.zeros(2)
    assert decibels(zero, zero) == math.inf
    assert decibels(zero, zero + 1e-9) == -math.inf


def test_kl_divergence() -> None:
    half, skewed = torch.zeros(2), torch.tensor([math.log(3.0), 0.0])
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert kl_divergence(half, skewed).item() == pytest.approx(expected)
    assert kl_divergence(skewed, skewed + 7).item() == pytest.approx(0, abs=1e-12)


def test_top1() -> None:
    assert top1_agrees(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 1.0]])).tolist() == [
        True,
        False,
    ]
