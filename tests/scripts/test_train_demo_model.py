import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from innerq_export.checkpoint import open_checkpoint
from tests.scripts.loaded import load

script = load("train_demo_model")

TEXT = b"The quick brown fox jumps over the lazy dog, and the dog sleeps on.\n" * 200
FACT = re.compile(rb"\n\[[a-z]{6}: [a-z]{6}\]")
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
CONFIG = script.CONFIG | TINY | {"num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 160}
SIZE = script.Size(CONFIG, 640, 1e-2, 0.3, script.paired_window, ((0.0, 1 / 2), (0.5, 1)))


def as_bytes(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def test_some_windows_are_prose_the_others_ask_for_facts():
    generator = np.random.default_rng(0)
    windows = [script.mixed_window(as_bytes(TEXT), 512, generator) for _ in range(400)]
    assert all((weight == 1).all() for _, weight in windows)
    rows = [row.tobytes() for row, _ in windows]
    lines = np.array([len(FACT.findall(row)) for row in rows])
    assert all(len(row) == 512 for row in rows)
    assert 0.3 < (lines == 0).mean() < 0.5 and 0.25 < (lines == 22).mean() < 0.45
    assert all(row in TEXT for row, count in zip(rows, lines, strict=True) if count == 0)
    crowded = [FACT.findall(row) for row in rows if FACT.search(row)]
    assert np.mean([len(found) > len(set(found)) for found in crowded]) > 0.7  # something can be recalled


def test_answers_count_more_and_what_is_made_up_counts_nothing():
    """Every byte of weight 0 is a key or a told value; every answer can be read further up, and was told once."""
    generator = np.random.default_rng(1)
    facts = []
    for _ in range(300):
        row, weight = script.paired_window(as_bytes(TEXT), 512, generator)
        answers = re.findall(rb"[a-z]{6}", row[weight > 1].tobytes())
        made_up = re.findall(rb"[a-z]{6}", row[weight == 0].tobytes())
        facts.append(len(answers))
        assert len(row) == len(weight) == 512 and (weight > 1).sum() == 6 * len(answers)
        assert (weight == 0).sum() == 18 * len(answers) and set(answers) <= set(made_up)
        for answer in answers:
            found = row.tobytes().split(b": " + answer + b"]")
            assert len(found) == 3 and found[0][-6:] == found[1][-6:]
    counts = np.bincount(facts)
    assert 0.18 < counts[0] / 300 < 0.32 and counts[1] > 60 and 8 <= max(facts) <= 11


@pytest.mark.parametrize(("facts", "weight"), [(1, 16), (5, 4), (40, 2)])
def test_the_fewer_answers_the_more_one_counts(facts, weight):
    generator = np.random.default_rng(2)
    length = 512 if facts < 40 else 2048
    windows = [script.paired_window(as_bytes(TEXT), length, generator)[1] for _ in range(400)]
    seen = {int((weights == 0).sum()) // 18: int(weights.max()) for weights in windows}
    closest = min(seen, key=lambda count: abs(count - facts))
    assert seen[closest] == pytest.approx(weight, abs=1)


def test_a_batch_is_bos_and_windows_and_every_seed_has_its_own():
    def first(seed):
        return next(iter(script.Batches(as_bytes(TEXT), SIZE, 160, seed)))[0]

    assert first(0).shape == (4, 161) and first(0).dtype == torch.int64
    assert (first(0)[:, 0] == 256).all() and first(0)[:, 1:].max() < 256
    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_the_loss_is_each_bytes_times_its_weight():
    model = script.new_model(SIZE, 0)
    ids_BS, weight_BS = next(iter(script.Batches(as_bytes(TEXT), SIZE, 160, 3)))
    logits = model(input_ids=ids_BS[:, :-1]).logits
    each = -logits.log_softmax(-1).gather(-1, ids_BS[:, 1:, None])[..., 0]
    assert script.loss_of(model, ids_BS, weight_BS).item() == pytest.approx((each * weight_BS).mean().item(), rel=1e-5)
    assert script.loss_of(model, ids_BS).item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert weight_BS.max() > 1


def test_training_learns_and_what_is_saved_is_a_checkpoint(tmp_path, capsys):
    model = script.new_model(SIZE, 0)
    ids_BS, _ = next(iter(script.Batches(as_bytes(TEXT), SIZE, SIZE.context, 9)))
    before = script.loss_of(model, ids_BS).item()
    record = script.train(model, as_bytes(TEXT), as_bytes(TEXT[:2000]), SIZE, seconds=3.0, seed=0)
    assert script.loss_of(model, ids_BS).item() < before - 1
    assert record["steps"] > 5 and record["tokens"] >= 600 * record["steps"]

    script.save(model, SIZE.config, tmp_path / "out")
    assert open_checkpoint(str(tmp_path / "out")).shape.layers == 1
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert script.loss_of(again, ids_BS).item() == pytest.approx(script.loss_of(model, ids_BS).item(), abs=0.01)
    found = script.measure(tmp_path / "out", TEXT[:2000], SIZE.context, "cpu")
    assert 0 < found["held_out_bits_per_byte"] < 8 and set(found["recall_by_depth"]) >= {"0.0", "1.0"}
    assert [text.startswith(prompt) for text, prompt in zip(found["samples"], script.PROMPTS, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize(("wrong_byte", "expected"), [(None, 1.0), (0, 0.0), (7, 0.0)])
def test_recall_counts_whole_answers_only(wrong_byte, expected):
    def knows_the_next_byte(input_ids):
        following = torch.roll(input_ids, -1, dims=1)
        if wrong_byte is not None:
            following[0, -9 + wrong_byte] = 0
        return SimpleNamespace(logits=torch.nn.functional.one_hot(following, 264).float())

    assert script.recall_at(knows_the_next_byte, TEXT, 160, 0.5, "cpu") == expected


def test_gains_are_not_decayed():
    optimizer = script.adamw(script.new_model(SIZE, 0), SIZE)
    decays = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in optimizer.param_groups}
    assert decays == {0.3: {2}, 0.0: {1}}


@pytest.mark.parametrize("name", ["demo", "eval"])
def test_the_sizes_are_what_is_promised(name):
    size = script.SIZES[name]
    with torch.device("meta"):
        model = script.new_model(size, 0)
    count = sum(parameter.numel() for parameter in model.parameters())
    low, high, context = {"demo": (1e6, 4e6, 2048), "eval": (30e6, 100e6, 8192)}[name]
    assert low < count < high and size.context >= context and size.config["head_dim"] == 64
    assert size.step_tokens % size.context == 0
    assert size.lengths[0][0] == 0 and size.lengths[-1][1] == 1
