"""The example on the demo model: what every request is told is what it would be told alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from innerq_export.checkpoint.demo import demo_folder
from innerq_export.errors import ConfigError
from innerq_export.integrations.pool import PagePool
from innerq_export.integrations.transformers import InnerQCache
from tests.integrations.hf import load, prompts, short

ROOT = Path(__file__).resolve().parents[2]


def module_of(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


loop = module_of(ROOT / "examples" / "continuous_batching" / "loop.py")


@pytest.fixture(scope="module")
def demo():
    return load(demo_folder())


def batch_of(model, prefix, slots=3, pages=8, stop=None):
    sizes = {"slots": slots, "pages": pages, "max_tokens": 200, "page_blocks": 1, "dtype": torch.float32}
    return loop.Batch(model, PagePool(model.config, short(), **sizes), prefix, stop)


@torch.no_grad()
def alone(model, prefix, prompt, count):
    cache, said = InnerQCache(model.config, short()), []
    model(torch.tensor([prefix]), past_key_values=cache)
    ids = torch.tensor([prompt])
    for _ in range(count):
        ids = model(ids, past_key_values=cache).logits[:, -1:].argmax(-1)
        said.append(int(ids))
    return said


def test_every_request_is_told_what_it_would_be_told_alone(demo):
    prefix, texts = prompts(1, 80, seed=3)[0].tolist(), prompts(5, 60)
    requests = [loop.Request(texts[n, : 10 * (n + 1)].tolist(), count) for n, count in enumerate([9, 30, 1, 14, 20])]
    batch, shared = batch_of(demo, prefix), []
    free = batch.pool.pages.free

    def watch(batch):
        shared.append(max(batch.pool.pages.owners(page) for page in batch.prefix.pages))

    counts = loop.serve(batch, requests, watch)
    for request in requests:
        assert request.said == alone(demo, prefix, request.prompt, request.max_new_tokens)
    assert counts.waited > 0
    assert max(shared) == 3
    assert batch.pool.pages.free == free


def test_a_request_leaves_at_the_stop_token(demo):
    prefix, prompt = prompts(1, 80, seed=3)[0].tolist(), prompts(1, 20)[0].tolist()
    whole = alone(demo, prefix, prompt, 12)
    request = loop.Request(prompt, 12)
    loop.serve(batch_of(demo, prefix, stop=whole[5]), [request])
    assert request.said == whole[: whole.index(whole[5]) + 1]


def test_a_request_that_can_never_fit_is_told_so(demo):
    batch = batch_of(demo, prompts(1, 80)[0].tolist(), pages=3)
    with pytest.raises(ConfigError, match="can never fit"):
        loop.serve(batch, [loop.Request([1] * 60, 40)])


def test_the_command_of_the_readme_runs():
    script = ROOT / "examples" / "continuous_batching" / "loop.py"
    options = ["--requests", "3", "--slots", "2", "--max-new-tokens", "3"]
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "3 requests, 9 tokens" in done.stdout, done.stderr


@pytest.mark.parametrize("fault", [False, True])
def test_the_soak_finds_what_is_wrong_and_only_that(fault, host_library):
    soak = module_of(ROOT / "scripts" / "soak_decode.py")
    options = soak.Options(
        steps=100, seed=2, slots=5, pages=60, max_tokens=260, prompt=150, sample=1, samples=6, device="cpu",
        preset="compact", kernels=host_library, fault=fault,
    )  # fmt: skip
    found = soak.soak(options)
    assert found["failures"] == (["a recomputed token was not the best"] if fault else []), json.dumps(found)
    assert found["forked"] > 0
