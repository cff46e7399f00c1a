"""Polygraphy: the ops as plugin references, our runners under its comparator, --innerq beside --onnxrt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from innerq_export.parity.ops import FunctionOps, ReferenceOps
from innerq_export.spec import CacheConfig
from innerq_export.spec.ops import APPEND, ATTENTION, OpCase, resolve

pytest.importorskip("onnx_graphsurgeon")
CONFIG = CacheConfig(sink=4, recent=12)
CASE = OpCase(past=(90, 20), new=(3, 1))


def polygraphy(*words: object) -> subprocess.CompletedProcess:
    program = Path(sys.executable).with_name("polygraphy")
    return subprocess.run([str(word) for word in (program, *words)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pieces(tiny_engine, tmp_path_factory) -> Path:
    """Each op of the engine as an ONNX of one node, and its inputs."""
    import onnx
    from polygraphy.json import save_json

    folder, functions = tmp_path_factory.mktemp("pieces"), FunctionOps(tiny_engine / "model.onnx")
    for op in (APPEND, ATTENTION):
        onnx.save(functions.piece(op, CONFIG, "float16"), folder / f"{op.name}.onnx")
        inputs = resolve(op.generator)(CONFIG, "logical", CASE)
        arrays = {name: tensor.nan_to_num().numpy() for name, tensor in inputs.items()}
        save_json([arrays], str(folder / f"{op.name}.json"))
    return folder


@pytest.mark.parametrize("op", [APPEND, ATTENTION], ids=lambda op: op.name)
def test_pluginref_knows_both_ops(op, pieces) -> None:
    words = (pieces / f"{op.name}.onnx", "--pluginref", "--onnxrt", "--load-inputs", pieces / f"{op.name}.json")
    result = polygraphy("run", *words, "--atol", "2e-3", "--rtol", "2e-3")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "Pass Rate: 100" in result.stdout


def test_our_runners_compare_with_each_other(tiny_engine) -> None:
    from polygraphy.comparator import Comparator, SimpleCompareFunc

    from innerq_export.parity.runners import OpRunner

    inputs = resolve(APPEND.generator)(CONFIG, "logical", CASE)
    feed = {name: tensor.nan_to_num().numpy() for name, tensor in inputs.items()}
    sides = [ReferenceOps(), FunctionOps(tiny_engine / "model.onnx")]
    results = Comparator.run([OpRunner(side, APPEND, CONFIG) for side in sides], data_loader=[feed])
    assert bool(Comparator.compare_accuracy(results, compare_func=SimpleCompareFunc(atol=0, rtol=0)))
    codes = results[1][1][0]["present_key_codes"].copy()
    codes[0, 0, 0, 5, 9] += 1
    results[1][1][0]["present_key_codes"] = codes
    assert not bool(Comparator.compare_accuracy(results, compare_func=SimpleCompareFunc(atol=0, rtol=0)))


def test_the_reference_runs_the_plugin_lowering_that_has_no_bodies(tiny_graph, tmp_path) -> None:
    from innerq_export.integrations.polygraphy import ReferenceRunner
    from innerq_export.onnx_io import save_onnx
    from innerq_export.rewrite import rewrite

    model, _ = rewrite(tiny_graph, CONFIG, "plugin")
    saved = save_onnx(model, tmp_path, graph=tiny_graph, cache=CONFIG, lowering="plugin")
    with ReferenceRunner(saved.path) as runner:
        metadata = runner.get_input_metadata(use_numpy_dtypes=False)
        sizes = {name: [size if size > 0 else 1 for size in value.shape] for name, value in metadata.items()}
        feed = {name: torch.zeros(shape).numpy().astype(metadata[name].dtype.numpy()) for name, shape in sizes.items()}
        feed["new_length"][:] = 1
        outputs = runner.infer(feed)
    assert outputs["logits"].shape[-1] == 264 and abs(outputs["logits"]).max() > 0
