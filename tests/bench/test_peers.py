"""Who is measured beside ours, and that a peer which is missing is said."""

from __future__ import annotations

import sys

import pytest
import torch

from innerq_export.bench.peers import available


def test_the_cpu_has_one_peer():
    found, refused = available(torch.device("cpu"))
    assert ([peer.name for peer in found], refused) == (["torch SDPA flash fp16"], [])


@pytest.mark.parametrize("there", [False, True])
def test_flashinfer_is_measured_or_said_to_be_missing(monkeypatch, there):
    monkeypatch.setitem(sys.modules, "flashinfer", sys if there else None)
    found, refused = available(torch.device("cuda"))
    names = [peer.name for peer in found]
    assert names[:2] == ["torch SDPA cuDNN fp16", "torch SDPA flash fp16"]
    assert names[2:] == (["FlashInfer FA2 fp16", "FlashInfer FA2 fp8", "FlashInfer XQA fp8"] if there else [])
    assert [words.split(":")[0] for words in refused] == ([] if there else ["FlashInfer"])
    assert all("pip install" in words for words in refused)
