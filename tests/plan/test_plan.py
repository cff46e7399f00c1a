"""Plans from headers alone: what they say, what they find, that they travel as JSON and are quick."""

import json
import time

import pytest

from innerq_export.checkpoint import digest
from innerq_export.errors import CheckpointError, ConfigError, OutOfMemoryError
from innerq_export.plan import Plan, check_plan
from innerq_export.plan import plan as plan_module
from innerq_export.plan import problems as problems_module
from innerq_export.spec import preset
from tests.graph.sparse import sparse_llama

LLAMA_8B = dict(
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
)


def texts(plan, code):
    return [problem.text for problem in plan.problems if problem.code == code]


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def large(tmp_path):
    return sparse_llama(tmp_path / "model", "BF16", **LLAMA_8B)


def test_eight_billion_parameters_take_less_than_two_seconds_and_no_weight_is_read(large, plan, monkeypatch):
    monkeypatch.setattr(digest.os, "pread", lambda *_: pytest.fail("a weight was read"))
    start = time.process_time()
    made = plan(large, backend="tensorrt", card="h200")
    assert time.process_time() - start < 2
    assert made.weight_bytes == 16_060_522_496
    assert (made.kv.packed, made.kv.fp16, made.kv.fp8) == (28_672, 131_072, 65_536)
    assert made.needed.weights == made.weight_bytes
    assert [phase.name for phase in made.phases] == ["export", "write", "onnxruntime", "tensorrt", "hash", "parity"]


def test_only_weights_that_change_are_written(large, plan):
    cast = {phase.name: phase.disk for phase in plan(large, backend="onnxruntime").phases}["write"]
    same = sparse_llama(large.parent / "fp16", "F16", **LLAMA_8B)
    linked = {phase.name: phase.disk for phase in plan(same, backend="onnxruntime").phases}["write"]
    copied = {phase.name: phase.disk for phase in plan(same, backend="onnxruntime", copy_weights=True).phases}["write"]
    assert linked < 1_000_000
    assert cast == copied == linked + 16_060_522_496


def test_a_second_profile_is_foreseen_in_the_plan_file(plan):
    """Measured: 14.94 and 22.23 MB of model.engine for the demo model (22 November 2026, TensorRT-RTX 1.7.1)."""
    made = [plan(backend="tensorrt-rtx", split_profiles=split).plan_bytes for split in (False, True)]
    assert made == pytest.approx([14_937_044, 22_232_276], rel=0.03)


def test_a_stripped_engine_is_foreseen_without_weights(plan, large):
    """Measured: 9.23 and 57.33 MB of model.engine, the latter in 1.354 GB (22 November 2026, TensorRT-RTX 1.7.1)."""
    made = [plan(model, backend="tensorrt-rtx", strip_weights=True) for model in ("llama", large)]
    assert [one.plan_bytes for one in made] == pytest.approx([9_229_636, 57_327_332], rel=0.06)
    peaks = {phase.name: phase.memory for phase in made[1].phases}
    assert peaks["tensorrt-rtx"] - peaks["onnxruntime"] == pytest.approx(1_354_000_000, rel=0.03)


@pytest.mark.parametrize("name", ["compact", "quality", "hybrid"])
def test_bytes_per_token_are_the_contracts(name, large, plan):
    published = {"compact": 24_576, "quality": 36_864, "hybrid": 26_624}
    assert plan(large, cache=preset(name)).kv.packed == published[name]


def test_json_gives_the_plan_back(plan):
    made = plan(card="rtx-4090", compute_capabilities=("8.9",))
    assert Plan.from_json(made.to_json(), "here") == made


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-9], lambda text: text.replace('"layers"', '"layer"'), lambda text: "[]"]
)
def test_a_file_that_is_no_plan_is_refused_by_name(damage, plan):
    with pytest.raises(ConfigError, match=r"plan\.json is no plan"):
        Plan.from_json(damage(plan().to_json()), "plan.json")


def test_every_incompatibility_is_listed_not_only_the_first(large, plan):
    change_config(large, attn_logit_softcapping=50.0, num_experts=8, architectures=["StrangeForCausalLM"])
    made = plan(large)
    said = " ".join(texts(made, 1))
    assert all(word in said for word in ("soft-capped", "mixture of experts", "StrangeForCausalLM"))
    assert made.exit_code == 1


def test_a_missing_backend_a_wrong_card_and_a_long_context_are_found(plan, monkeypatch):
    assert any("tensorrt" in text for text in texts(plan(backend="tensorrt"), 4))
    assert "unknown backend" in texts(plan(backend="tensort"), 1)[0]
    assert "out of range" in texts(plan(max_context=4096), 1)[0]
    wrong = plan(backend="tensorrt-rtx", card="h200")
    assert any("does not run on h200 (9.0)" in text for text in texts(wrong, 4))
    assert not texts(plan(backend="onnxruntime", card="h200"), 4)


def test_models_that_cannot_be_planned(plan, tmp_path):
    with pytest.raises(CheckpointError, match="is no model"):
        plan(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="did you mean 'rtx-4090'"):
        plan(card="rtx4090")
    with pytest.raises(ConfigError, match="headers"):
        plan("decoder.onnx")


def test_lack_of_memory_is_foreseen_with_every_phase_that_needs_more(plan, monkeypatch):
    needs = {phase.name: phase.memory for phase in plan(backend="onnxruntime").phases}
    worst = max(needs.values())
    monkeypatch.setattr(plan_module, "available_memory", lambda: worst)
    assert plan(backend="onnxruntime").exit_code == 0
    monkeypatch.setattr(plan_module, "available_memory", lambda: worst - 1)
    refused = plan(backend="onnxruntime")
    assert refused.exit_code == 5
    with pytest.raises(OutOfMemoryError, match="'parity' needs"):
        check_plan(refused)
    check_plan(refused, ignore_memory=True)
    monkeypatch.setattr(plan_module, "available_memory", lambda: 0)
    assert len(texts(plan(backend="onnxruntime"), 5)) == len(needs)


def test_lack_of_disk_is_foreseen(plan, monkeypatch):
    needed = plan(copy_weights=True).engine_bytes
    monkeypatch.setattr(problems_module, "free_disk", lambda _: needed)
    assert not texts(plan(copy_weights=True), 5)
    monkeypatch.setattr(problems_module, "free_disk", lambda _: needed - 1)
    with pytest.raises(OutOfMemoryError, match="needed on the disk"):
        check_plan(plan(copy_weights=True))


def test_a_plan_of_another_model_is_refused(large, plan):
    saved = plan(large)
    check_plan(plan(large), saved, ignore_memory=True)
    change_config(large, rms_norm_eps=1e-4)
    with pytest.raises(ConfigError, match="no longer the model that was planned"):
        check_plan(plan(large), saved, ignore_memory=True)
