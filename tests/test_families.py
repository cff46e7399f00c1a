"""Every common family from checkpoint to a proven engine folder, with no code of ours per family."""

import dataclasses
from pathlib import Path

import pytest

from innerq_export.errors import ConfigError
from innerq_export.pipeline import BuildRequest, build
from innerq_export.plan import make_plan
from tests.graph.test_families import FAMILIES, RARE
from tests.models import tiny_model

COMMON = {"llama": {}} | {name: sizes for name, sizes in FAMILIES.items() if name not in RARE}
MIXTURES = {"mixtral", "qwen3_moe"}


def test_they_are_ten_or_more():
    assert len(COMMON) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("family", COMMON)
def test_a_family_builds_and_passes_parity(family: str, tmp_path: Path):
    sizes = {"num_hidden_layers": 1, "max_position_embeddings": 1024} | COMMON[family]
    folder = tiny_model(tmp_path / "model", family, **sizes)
    dtype = "float32" if family in MIXTURES else "float16"
    engine = build(BuildRequest(str(folder), tmp_path / "engine", backend="onnxruntime", dtype=dtype))
    assert engine.manifest["ready"] is True


@pytest.mark.slow
def test_a_mixture_in_float16_is_refused_before_any_work_unless_parity_is_off(tmp_path: Path):
    folder = tiny_model(tmp_path / "model", "mixtral", num_hidden_layers=1, **COMMON["mixtral"])
    request = BuildRequest(str(folder), tmp_path / "engine", backend="onnxruntime")
    with pytest.raises(ConfigError, match=r"cannot judge a mixture of experts in float16[\s\S]*--parity off"):
        build(request)
    assert [problem.code for problem in make_plan(request).problems if "mixture" in problem.text] == [1]
    unproven = dataclasses.replace(request, parity="off")
    assert not [problem for problem in make_plan(unproven).problems if "mixture" in problem.text]
    assert build(unproven).manifest["ready"] is False


LAYOUTS = {
    "one KV head, untied, sharded bf16": {
        "num_key_value_heads": 1,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
        "shard_size": "100KB",
    },
    "a KV head for every query head, tied, fp32": {"num_key_value_heads": 4, "dtype": "float32"},
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_of_save_pretrained_builds_and_passes_parity(layout: str, tmp_path: Path):
    folder = tiny_model(tmp_path / "model", "llama", num_hidden_layers=1, **LAYOUTS[layout])
    assert build(BuildRequest(str(folder), tmp_path / "engine", backend="onnxruntime")).manifest["ready"] is True
