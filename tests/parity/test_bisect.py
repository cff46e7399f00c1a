"""--bisect: the piece it writes fails alone, and the same piece of a sound engine does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from polygraphy.comparator import RunResults
from polygraphy.json import load_json

from innerq_export.engine import build_engine, default_profiles, staging
from innerq_export.engine.folder import read_manifest
from innerq_export.errors import UserError
from innerq_export.onnx_io import save_onnx
from innerq_export.parity import bisect, look_closely
from innerq_export.parity.cases import prompts_case
from innerq_export.parity.metrics import decibels
from innerq_export.rewrite import rewrite
from tests.engine.real import SMALL_WINDOW
from tests.parity import faults

CASES = (prompts_case(60, 9, decode=1),)


def level(folder: Path) -> float:
    """The worst output of piece.onnx in dB against expected.json."""
    session = onnxruntime.InferenceSession(folder / bisect.PIECE, providers=["CPUExecutionProvider"])
    (feeds,) = load_json(str(folder / bisect.INPUTS))
    ((_, (expected,)),) = RunResults.load(str(folder / bisect.EXPECTED)).items()
    got = dict(zip(expected, session.run(list(expected), feeds), strict=True))
    pairs = [(expected[name].astype(np.float32), got[name].astype(np.float32)) for name in expected]
    return min(decibels(*(torch.from_numpy(x.ravel()) for x in pair)).item() for pair in pairs)


@pytest.mark.parametrize(
    ("spoil", "only", "nodes"),
    [
        (faults.block_unseen, (), 1),
        (faults.code_one_step_off, (), 1),
        (faults.lambda_forgotten, ("cache", "attention"), 1),
        (faults.scales_swapped, ("cache",), 1),
        (faults.keys_for_values, ("keys and values",), 60),
        (faults.logits_of_the_wrong_token, ("logits",), 90),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_piece_fails_alone(spoil, only, nodes, tiny_engine, tiny_checkpoint, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", spoil)
    checked = look_closely(folder, tiny_checkpoint, cases=CASES, only=only)
    said = bisect.write_piece(folder, checked, tiny_checkpoint, tmp_path / "piece")
    assert str(tmp_path / "piece" / "piece.onnx") in said
    assert len(onnx.load(tmp_path / "piece" / "piece.onnx").graph.node) <= nodes
    assert level(tmp_path / "piece") < 40
    assert_sound(tiny_engine, checked, tiny_checkpoint, tmp_path / "sound")


@pytest.fixture(scope="module")
def all_logits(tiny_graph, tmp_path_factory) -> Path:
    """The tiny engine built with `--logits all`."""
    folder = tmp_path_factory.mktemp("all") / "engine"
    model, _ = rewrite(tiny_graph, SMALL_WINDOW, logits="all")
    with staging(folder) as stage:
        saved = save_onnx(model, stage, graph=tiny_graph, cache=SMALL_WINDOW, lowering="native")
        build_engine(saved, stage, "onnxruntime", default_profiles(tiny_graph.shape, SMALL_WINDOW, 2, 512))
    return folder


@pytest.mark.parametrize("spoil", [faults.head_of_the_model, faults.keys_for_values], ids=lambda spoil: spoil.__name__)
def test_so_does_that_of_an_engine_that_gives_all_logits(spoil, all_logits, tiny_checkpoint, tmp_path) -> None:
    source = dataclasses.replace(tiny_checkpoint, digest=read_manifest(all_logits).source_digest)
    folder = faults.spoiled(all_logits, tmp_path / "engine", spoil)
    checked = look_closely(folder, source, cases=CASES, only=("keys and values", "logits"))
    bisect.write_piece(folder, checked, source, tmp_path / "piece")
    (output, *_) = onnx.load(tmp_path / "piece" / "piece.onnx").graph.output
    assert output.name != "logits" or output.type.tensor_type.shape.dim[1].dim_param
    assert level(tmp_path / "piece") < 40
    assert_sound(all_logits, checked, source, tmp_path / "sound")


def assert_sound(engine: Path, checked, source, folder: Path) -> None:
    """Cut the same piece out of the engine without the fault: it agrees."""
    bisect.write_piece(engine, checked, source, folder)
    assert level(folder) >= 40


@pytest.mark.parametrize("rung", ["packing", "as shipped"])
def test_findings_without_a_piece_say_so(rung, tiny_engine, tiny_checkpoint, tmp_path) -> None:
    folder = faults.spoiled(tiny_engine, tmp_path / "engine", faults.block_unseen)
    checked = look_closely(folder, tiny_checkpoint, cases=CASES)
    checked.report = checked.report.replace(finding=dataclasses.replace(checked.report.finding, rung=rung))
    with pytest.raises(UserError, match="no piece to cut"):
        bisect.write_piece(folder, checked, tiny_checkpoint, tmp_path / "piece")
