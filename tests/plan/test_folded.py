"""What a folded key norm adds to a plan: the weights that change, and the calibration before the export."""

import subprocess
import sys

import pytest

from innerq_export.checkpoint import open_checkpoint
from innerq_export.plan.costs import calibration_memory, weights_of
from innerq_export.spec import CacheConfig
from tests.models import tiny_model

FOLDED = CacheConfig(key_norm="folded")


def written(made) -> int:
    return {phase.name: phase.disk for phase in made.phases}["write"]


def test_queries_and_keys_are_written_and_a_text_is_calibrated_on_first(plan, tmp_path):
    plain, named = plan(backend="onnxruntime"), {"cache": FOLDED, "backend": "onnxruntime"}
    from_file = plan(key_norm_file=tmp_path / "lambda", **named)
    from_text = plan(key_norm_text=tmp_path / "text", **named)
    demo = open_checkpoint("llama")
    changed = sum(ref.nbytes for ref in demo.tensors.values() if "q_proj" in ref.name or "k_proj" in ref.name)
    assert changed and written(from_file) == written(from_text) == written(plain) + changed
    assert [phase.name for phase in from_file.phases] == [phase.name for phase in plain.phases]
    assert [phase.name for phase in from_text.phases] == ["calibrate", *(phase.name for phase in plain.phases)]


@pytest.mark.parametrize(
    ("family", "part"), [("qwen3", "_norm.weight"), ("phi3", "qkv_proj"), ("olmo2", "_norm.weight")]
)
def test_what_changes_in_a_family(family, part, tmp_path):
    config = {"tie_word_embeddings": False, "pad_token_id": 0}
    tensors = open_checkpoint(str(tiny_model(tmp_path, family, num_hidden_layers=1, **config))).tensors.values()
    attention = [ref for ref in tensors if ".self_attn." in ref.name]
    expected = sum(ref.nbytes for ref in attention if part in ref.name)
    assert weights_of(list(tensors), "float16", "folded").cast == expected > 0
    assert weights_of(list(tensors), "float16", "none").cast == 0


@pytest.mark.slow
def test_memory_of_calibration_is_foreseen_within_15_percent(tmp_path):
    if sys.platform != "linux":
        pytest.skip("peaks come from /proc")
    (tmp_path / "text").write_text("Small errors hide behind large sums. " * 200)
    words = ["calibrate", "llama", "--text", str(tmp_path / "text"), "-o", str(tmp_path / "lambda")]
    code = (
        f"from innerq_export.cli.main import cli; cli({words}, standalone_mode=False); "
        "from pathlib import Path; from innerq_export.plan.meter import peak_of; print(peak_of(Path('/proc/self')))"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    demo = open_checkpoint("llama")
    foreseen = calibration_memory(list(demo.tensors.values()), demo.config)
    assert foreseen == pytest.approx(int(said.split()[-1]), rel=0.15)
