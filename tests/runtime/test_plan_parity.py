"""Parity of a plan: the decoder behind TensorRT's interface is held to model.onnx, and faults in it are seen."""

import numpy as np
import pytest

from innerq_export.engine import PLUGIN_ONNX_NAME, read_manifest
from innerq_export.onnx_io import save_onnx
from innerq_export.parity.cases import Case, prompts_case
from innerq_export.parity.plans import plan_results
from innerq_export.parity.text import token_streams
from innerq_export.parity.tolerances import QUANTISED_DB
from innerq_export.rewrite import rewrite
from tests.engine.real import SMALL_WINDOW
from tests.runtime import stand_in
from tests.runtime.plan_folder import pretend, with_plan

CASES = (
    prompts_case(5, 9, decode=2),
    prompts_case(60, 33, decode=2),
    Case("chunked and ragged", ((30, 7), (0, 50), (40, 1), (1, 0), (1, 1))),
    prompts_case(200, decode=20),
)
"""Before and after the first block; the last one is too long for this rung."""


@pytest.fixture(scope="module")
def folder(tiny_engine, tiny_graph, tmp_path_factory):
    """In fp16, where onnx's evaluator rounds worse than any card: what it reaches, a card does."""
    place = tmp_path_factory.mktemp("parity")
    model, _ = rewrite(tiny_graph, SMALL_WINDOW, "plugin")
    whole = {"copy_weights": True, "name": PLUGIN_ONNX_NAME}
    saved = save_onnx(model, place / "onnx", graph=tiny_graph, cache=SMALL_WINDOW, lowering="plugin", **whole)
    return with_plan(tiny_engine, place / "engine", "tensorrt", saved.path, 512)


def results(folder):
    manifest = read_manifest(folder)
    streams_BT = token_streams(folder, manifest.model.vocab, 2, 300)
    return plan_results(folder, manifest, CASES, streams_BT)


def test_a_right_plan_passes_and_says_by_how_much(folder, monkeypatch):
    pretend(monkeypatch)
    ((result, finding),) = results(folder)
    assert finding is None, finding
    assert (result.status, result.backend, result.calls) == ("passed", "tensorrt", 11)
    assert result.figures["worst dB before the first block"] > 45
    assert result.figures["worst dB after it"] > QUANTISED_DB + 5


def broken(monkeypatch, change):
    """Mutation: every output of the plan passes through `change(name, array)`."""
    make = stand_in.evaluator
    monkeypatch.setattr(
        stand_in,
        "evaluator",
        lambda model: lambda feeds: {name: change(name, array) for name, array in make(model)(feeds).items()},
    )


def lost_records(name, array):
    return np.zeros_like(array) if name == "present_blocks_1" else array


def one_code_step(name, array):
    return array ^ 0x01010101 if name == "present_blocks_0" else array


def stale_window(name, array):
    return np.roll(array, 1, axis=3) if name == "present_window_1" else array


def scaled_logits(name, array):
    return array * np.float16(1.01) if name == "logits" else array


@pytest.mark.parametrize("fault", [lost_records, one_code_step, stale_window, scaled_logits])
def test_a_fault_is_found(folder, monkeypatch, fault):
    pretend(monkeypatch)
    broken(monkeypatch, fault)
    ((result, finding),) = results(folder)
    assert result.status == "failed"
    assert finding.rung == "engine"
    assert finding.case in {case.name for case in CASES}


def test_without_a_card_it_is_not_run_and_says_why(folder, monkeypatch):
    pretend(monkeypatch, card=None)
    ((result, finding),) = results(folder)
    assert (result.status, finding) == ("not run", None)
    assert "no NVIDIA card" in result.reason
