import hashlib
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from innerq_export.checkpoint import demo, open_checkpoint
from innerq_export.errors import EnvironmentMismatchError
from innerq_export.eval.recall import draw_facts, needle_prompt

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(cache))


def test_the_demo_model_is_small_grouped_and_says_what_it_knows():
    checkpoint = open_checkpoint("llama")
    shape = checkpoint.shape
    assert shape.layers >= 4 and shape.head_dim == 64 and shape.heads > shape.kv_heads and shape.max_positions == 2048
    assert sum(ref.nbytes for ref in checkpoint.tensors.values()) < 8 << 20
    assert "King James Bible and Jane Austen" in checkpoint.notes[0]


def test_it_is_the_same_everywhere_and_written_once(tmp_path):
    written = demo.demo_folder()
    inode = (written / "model.safetensors").stat().st_ino
    demo.write_demo(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256((written / file.name).read_bytes()).digest()
    assert (demo.demo_folder() / "model.safetensors").stat().st_ino == inode
    assert [entry.name for entry in written.parent.iterdir()] == [written.name]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path))

    def disk_full(folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "write_demo", disk_full)
    with pytest.raises(EnvironmentMismatchError, match=r"No space left on device[\s\S]*INNERQ_EXPORT_CACHE"):
        demo.demo_folder()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_keeps_the_first_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("INNERQ_EXPORT_CACHE", str(tmp_path))
    target = tmp_path / demo.demo_folder().name
    shutil.rmtree(target)

    def another_process_finishes_first(folder):
        target.mkdir()
        (target / "config.json").write_text("theirs")
        (folder / "config.json").write_text("ours")

    monkeypatch.setattr(demo, "write_demo", another_process_finishes_first)
    assert (demo.demo_folder() / "config.json").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("platform", "variable", "value", "tail"),
    [
        ("linux", "XDG_CACHE_HOME", "/x", "/x/innerq-export"),
        ("win32", "LOCALAPPDATA", "/y", "/y/innerq-export"),
        ("darwin", "HOME", "/z", "/z/Library/Caches/innerq-export"),
    ],
)
def test_the_cache_folder_is_the_platforms(monkeypatch, platform, variable, value, tail):
    monkeypatch.delenv("INNERQ_EXPORT_CACHE")
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(demo.sys, "platform", platform)
    assert demo.cache_root().as_posix() == tail


def test_every_byte_is_its_own_token():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo.demo_folder())
    text = "plain, \n\t spaces  ä€😀 \x00\x7f"
    ids = tokenizer(text)["input_ids"]
    assert ids == [256, *text.encode()]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == demo.CONFIG["vocab_size"]
    assert [tokenizer.convert_tokens_to_ids(name) for name in demo.SPECIALS[:3]] == [256, 257, 258]


def test_the_held_out_text_is_what_was_fetched():
    expected = re.search(r'"heldout.txt": "(\w+)"', (ROOT / "scripts" / "fetch_text.py").read_text())[1]
    assert hashlib.sha256(demo.held_out_text()).hexdigest() == expected


def test_the_weights_are_those_of_the_training_record_and_the_model_card():
    record = demo.training_record()
    weights = (demo.demo_folder() / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["weights_sha256"]
    card = (ROOT / "innerq_export/checkpoint/demo_model/README.md").read_text()
    reached = [record["held_out_bits_per_byte"], *record["recall_by_depth"].values()]
    missing = [f"{figure:.2f}" for figure in reached if f"{figure:.2f}" not in card]
    assert not missing, f"demo_model/README.md lacks {missing} of training.json"


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(demo.demo_folder(), dtype=torch.float32)


def test_it_has_learned_its_books(model):
    """A byte of English costs 8 bits untrained and 4.2 by letter frequencies alone."""
    import torch

    text = demo.held_out_text()
    ids_BS = torch.tensor([[256, *text[start : start + 1024]] for start in (0, 150_000, 300_000)])
    with torch.no_grad():
        loss = model(ids_BS, labels=ids_BS).loss.item()
    assert loss / math.log(2) < 1.8


def test_it_recalls_a_fact_from_beyond_the_windows(model):
    """1,000 bytes back, where the cache holds quantised blocks only; with the fact taken out it knows nothing."""
    import torch

    generator = np.random.default_rng(0)
    text, right = demo.held_out_text(), {True: 0, False: 0}
    for fact in draw_facts(8, generator):
        for told in (True, False):
            other = fact if told else draw_facts(1, generator)[0]
            prompt = needle_prompt(text, 1100, 0.1, other)[: -len(fact.question)] + fact.question
            ids_1S = torch.tensor([[256, *prompt, *fact.answer]])
            with torch.no_grad():
                likeliest = model(ids_1S).logits[0, -len(fact.answer) - 1 : -1].argmax(-1)
            right[told] += bytes(likeliest.tolist()) == fact.answer
    assert right[True] >= 7 and right[False] == 0
