"""The blocks of docs/transformers.md run as they stand; the captured one needs a card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from innerq_export.integrations.transformers import InnerQCache
from tests.integrations.hf import load, prompts

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "transformers.md").read_text()
GENERATE, CAPTURED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_generate(capsys):
    exec(GENERATE, {})
    assert "torch.Size([2, 301]) [300, 31]" in capsys.readouterr().out


@pytest.mark.gpu
@torch.no_grad()
def test_the_captured_step(tiny_checkpoint, cuda_library):
    names = {"torch": torch}
    exec(CAPTURED, names)
    model = load(tiny_checkpoint.folder, torch.float16).cuda()
    token_B1 = torch.zeros(2, 1, dtype=torch.long, device="cuda")
    cache = InnerQCache(model.config, max_tokens=300)
    replay = names["captured_decode"](model, cache, token_B1)
    ids = prompts(2, 200).cuda()
    wanted = model.generate(ids, past_key_values=InnerQCache(model.config, max_tokens=300), max_new_tokens=20,
                            do_sample=False, eos_token_id=None, pad_token_id=258)  # fmt: skip
    token_B1.copy_(model(ids, past_key_values=cache).logits[:, -1].argmax(-1, keepdim=True))
    for t in range(200, 220):
        assert torch.equal(token_B1[:, 0], wanted[:, t])
        replay()
