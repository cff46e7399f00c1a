"""Every common family from checkpoint to a proven engine folder, with no code of ours per family."""

from pathlib import Path

import pytest

from innerq_export.pipeline import BuildRequest, build
from tests.graph.test_families import FAMILIES, RARE
from tests.models import tiny_model

COMMON = {"llama": {}} | {name: sizes for name, sizes in FAMILIES.items() if name not in RARE}


def test_they_are_ten_or_more():
    assert len(COMMON) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("family", COMMON)
def test_a_family_builds_and_passes_parity(family: str, tmp_path: Path):
    sizes = {"num_hidden_layers": 1, "max_position_embeddings": 1024} | COMMON[family]
    folder = tiny_model(tmp_path / "model", family, **sizes)
    engine = build(BuildRequest(str(folder), tmp_path / "engine", backend="onnxruntime"))
    assert engine.manifest["ready"] is True


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
