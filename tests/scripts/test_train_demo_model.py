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
PHASES = (script.Phase(0.0, 1 / 2, script.FIRST, 640), script.Phase(0.5, 1, script.THEN, 640))
SIZE = script.Size(CONFIG, 1e-2, 0.3, PHASES)


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


def windows(count=200, length=512, **shares):
    generator = np.random.default_rng(1)
    kinds = {"prose": 0, "needle": 0, "pairs": 0} | shares
    return [script.recall_window(as_bytes(TEXT), length, generator, **kinds) for _ in range(count)]


def answers_of(row, weight):
    return re.findall(rb"[a-z]{6}", row[weight == weight.max()].tobytes())


def test_a_lone_fact_is_asked_for_at_the_end_and_its_answer_alone_counts():
    for row, weight in windows(needle=1):
        (answer,) = answers_of(row, weight)
        (fact,) = set(FACT.findall(row.tobytes()))
        assert row.tobytes().endswith(b": " + answer + b"]") and fact.endswith(b": " + answer + b"]")
        assert len(row) == len(weight) == 512 and set(weight) == {0, script.NEEDLE_WEIGHT} and (weight > 0).sum() == 6


def test_in_pairs_every_answer_was_told_once_and_counts_more():
    counts = []
    for row, weight in windows(pairs=1):
        assert set(weight) == {1, script.PAIR_WEIGHT}
        answers = answers_of(row, weight)
        counts.append(len(answers))
        for answer in answers:
            before, between, _ = row.tobytes().split(b": " + answer + b"]")
            assert before[-6:] == between[-6:] and (weight[len(before) :][2:8] == 1).all()
    assert min(counts) == 1 and max(counts) == 28 * 9 // 20


def test_repeated_facts_are_few_or_many_and_fill_the_window():
    found = [FACT.findall(row.tobytes()) for row, _ in windows()]
    assert {len(lines) for lines in found} == {22} and all((weight == 1).all() for _, weight in windows(20))
    kinds = np.array([len(set(lines)) for lines in found])
    assert kinds.min() <= 2 and 5 <= kinds.max() <= 7


def test_shares_are_what_was_asked_for():
    drawn = windows(400, prose=0.25, needle=0.2, pairs=0.3)
    assert 0.2 < np.mean([not FACT.search(row.tobytes()) for row, _ in drawn]) < 0.3
    assert 0.15 < np.mean([weight.max() == script.NEEDLE_WEIGHT for _, weight in drawn]) < 0.25
    assert 0.24 < np.mean([weight.max() == script.PAIR_WEIGHT for _, weight in drawn]) < 0.36


def test_a_batch_is_bos_and_windows_and_every_seed_has_its_own():
    def first(seed):
        return next(iter(script.Batches(as_bytes(TEXT), PHASES[1], 160, seed)))[0]

    assert first(0).shape == (4, 161) and first(0).dtype == torch.int64
    assert (first(0)[:, 0] == 256).all() and first(0)[:, 1:].max() < 256
    assert torch.equal(first(0), first(0)) and not torch.equal(first(0), first(1))


def test_the_loss_is_each_bytes_times_its_weight():
    model = script.new_model(SIZE, 0)
    ids_BS, weight_BS = next(iter(script.Batches(as_bytes(TEXT), PHASES[1], 160, 3)))
    logits = model(input_ids=ids_BS[:, :-1]).logits
    each = -logits.log_softmax(-1).gather(-1, ids_BS[:, 1:, None])[..., 0]
    assert script.loss_of(model, ids_BS, weight_BS).item() == pytest.approx((each * weight_BS).mean().item(), rel=1e-5)
    assert script.loss_of(model, ids_BS).item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert weight_BS.max() > 1


def test_training_learns_and_what_is_saved_is_a_checkpoint(tmp_path, capsys):
    model = script.new_model(SIZE, 0)
    ids_BS, _ = next(iter(script.Batches(as_bytes(TEXT), PHASES[1], SIZE.context, 9)))
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


@pytest.mark.parametrize("name", script.SIZES)
def test_the_sizes_are_what_is_promised(name):
    size = script.SIZES[name]
    with torch.device("meta"):
        model = script.new_model(size, 0)
    count = sum(parameter.numel() for parameter in model.parameters())
    low, high, context = {"demo": (1e6, 4e6, 2048), "eval": (30e6, 100e6, 8192)}[name.split("-")[0]]
    assert low < count < high and size.context >= context and size.config["head_dim"] == 64
    assert size.phases[0].start == 0 and size.phases[-1].length == 1
    assert all(phase.step_tokens % round(phase.length * size.context) == 0 for phase in size.phases)
