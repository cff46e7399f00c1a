"""Our runners under Polygraphy's Comparator, and what was compared as its AccuracyResults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from polygraphy.comparator import AccuracyResults, Comparator, IterationResult, RunResults, SnrCompareFunc

from innerq_export.parity import look_closely, recording
from innerq_export.parity.accuracy import KlCompareFunc, Tally, WorstRowCompareFunc, accuracy_results, equality, signal
from innerq_export.parity.cases import prompts_case
from innerq_export.parity.ops import ReferenceOps
from innerq_export.parity.runners import EmulatedRunner, OnnxRuntimeRunner, OpRunner
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, OpCase, resolve

CONFIG = CacheConfig(sink=4, recent=12)


def calls() -> list[dict[str, np.ndarray]]:
    """A ragged prompt and two tokens each."""
    ids = np.random.default_rng(0).integers(0, 256, (2, 60))
    lengths = np.array([60, 20], np.int32)
    ones = np.ones(2, np.int32)
    return [{"input_ids": ids, "new_length": lengths}, *[{"input_ids": ids[:, :1], "new_length": ones}] * 2]


def test_a_whole_engine_beside_the_reference(tiny_engine, torch_model, tiny_checkpoint) -> None:
    shape = tiny_checkpoint.shape
    sides = [OnnxRuntimeRunner(tiny_engine, 2), EmulatedRunner(torch_model, CONFIG, shape, "float16")]
    with recording.quiet():
        results = Comparator.run(sides, data_loader=calls())
    first, second = (iterations for _, iterations in results)
    assert [len(first), len(second)] == [3, 3]
    assert {"logits", "key_1", "attention_0", "present_window_1", "shipped_logits"} <= set(first[0])
    assert first[2]["present_key_codes_0"].any(), "the cache lives on from call to call"
    logits = RunResults([(name, [IterationResult({"logits": it["logits"]}) for it in its]) for name, its in results])
    with recording.quiet():
        assert bool(Comparator.compare_accuracy(logits, compare_func=[WorstRowCompareFunc(15.0), KlCompareFunc(0.05)]))
        assert not bool(Comparator.compare_accuracy(logits, compare_func=WorstRowCompareFunc(200.0)))


def test_activation_starts_anew(tiny_engine) -> None:
    runner = OnnxRuntimeRunner(tiny_engine, 2, shipped=False)
    said = []
    for _ in range(2):
        with runner:
            said.append(runner.infer(calls()[0])["logits"].copy())
    assert np.array_equal(*said)


def test_an_op_in_bf16_takes_and_gives_tensors() -> None:
    case = OpCase(past=(90, 20), new=(3, 1), dtype="bfloat16")
    inputs = resolve(APPEND.generator)(CONFIG, "logical", case)
    with OpRunner(ReferenceOps(), APPEND, CONFIG, "bfloat16") as runner:
        assert runner.infer(inputs)["present_window"].dtype == torch.bfloat16


@pytest.fixture(scope="module")
def accuracy_file(tiny_engine, tiny_checkpoint, tmp_path_factory) -> Path:
    checked = look_closely(tiny_engine, tiny_checkpoint, cases=(prompts_case(50, 9, decode=1),))
    path = tmp_path_factory.mktemp("accuracy") / "parity-accuracy.json"
    recording.save_accuracy(checked, path)
    return path


def test_what_was_compared_is_named_after_the_rungs(accuracy_file) -> None:
    with recording.quiet():
        results = AccuracyResults.load(str(accuracy_file))
    assert bool(results)
    names = set(results.output_names())
    assert {"InnerQAppend", "InnerQAttention", "packing", "cache 1", "attention 0", "keys 0", "logits"} <= names
    assert {"next token", "as shipped", "logits in full precision"} <= names
    assert ("onnxruntime", "reference") in results[0]


@pytest.mark.parametrize(("floor", "code"), [(40, 0), (90, 1)])
def test_polygraphy_holds_it_to_other_thresholds(floor: int, code: int, accuracy_file) -> None:
    program = Path(sys.executable).with_name("polygraphy")
    words = [program, "check", "accuracy", accuracy_file, "--compare", "snr", "--snr-threshold", floor]
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout + result.stderr


def test_the_worst_row_counts_where_polygraphys_own_takes_the_mean() -> None:
    right = {"x": np.array([[100.0, 0.0], [1.0, 0.0]])}
    wrong = {"x": np.array([[100.0, 0.0], [0.0, 1.0]])}
    pair = IterationResult(right), IterationResult(wrong)
    with recording.quiet():
        assert SnrCompareFunc(30.0)(*pair)["x"]
    assert not WorstRowCompareFunc(30.0)(*pair)["x"]


def test_tallies_keep_the_worst_and_bits_without_a_number_count() -> None:
    tally = Tally()
    assert tally.add("a", "logits", signal(50.0, 40.0))
    assert not tally.add("a", "logits", signal(float("nan"), 40.0))
    assert tally.add("b", "logits", signal(45.0, 40.0))
    assert [bool(outputs["logits"]) for outputs in tally.cases.values()] == [False, True]
    assert not bool(accuracy_results([("engine", tally)]))
    assert equality(None) and not equality(0.0) and not equality(-1.0) and not equality(float("nan"))


def test_kl_survives_json(tmp_path) -> None:
    logits = [IterationResult({"logits": np.array([values])}) for values in ([0.0, 0.0], [1.0, 0.0])]
    result = KlCompareFunc(0.05)(*logits)["logits"]
    tally = Tally()
    assert not tally.add("case", "logits", result) and 0.1 < result.kl < 0.13
    with recording.quiet():
        accuracy_results([("here", tally)]).save(str(tmp_path / "kl.json"))
        assert not bool(AccuracyResults.load(str(tmp_path / "kl.json")))
