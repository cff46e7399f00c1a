"""Damaged folders: whatever is in config.json, index and headers, the answer is a Checkpoint or a clear error.

Run as a program, `python -m tests.checkpoint.test_fuzz SECONDS [SEED]`, it goes on with byte-level damage.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from innerq_export.checkpoint import open_checkpoint
from innerq_export.errors import CheckpointError
from tests.checkpoint.safetensors_file import write

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "vocab_size": 264,
    "max_position_embeddings": 4096,
    "sliding_window": 2048,
    "layer_types": ["full_attention"] * 2,
    "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4},
}
INDEX = {"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "x.safetensors", "scalar": "x.safetensors"}}


def write_folder(folder: Path, config: object = CONFIG, index: object = INDEX) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write(folder / "x.safetensors")


def opens_or_explains(folder: Path) -> bool:
    try:
        checkpoint = open_checkpoint(str(folder))
    except CheckpointError as error:
        assert len(str(error)) < 5000
        return False
    size = (folder / "x.safetensors").stat().st_size
    assert all(ref.offset >= 8 and ref.offset + ref.nbytes <= size for ref in checkpoint.tensors.values())
    assert checkpoint.shape.heads % checkpoint.shape.kv_heads == 0
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


def test_the_undamaged_folder_opens(folder):
    write_folder(folder)
    assert opens_or_explains(folder)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(fields=st.dictionaries(st.sampled_from([*CONFIG, "quantization_config", "num_experts"]), anything, max_size=3))
def test_any_config(folder, fields):
    write_folder(folder, CONFIG | fields)
    opened = opens_or_explains(folder)
    assert not (opened and fields.get("quantization_config")), "weights that are quantised already"


names = (
    st.sampled_from(["x.safetensors", "y.safetensors", "../x.safetensors", ".", "", "/", "x.safetensors/"]) | anything
)


@settings(max_examples=200, deadline=None)
@given(weight_map=st.dictionaries(st.sampled_from("ab") | st.text(max_size=5), names, max_size=3) | anything)
def test_any_index(folder, weight_map):
    write_folder(folder, index={"weight_map": weight_map})
    opened = opens_or_explains(folder)
    assert not opened or set(weight_map.values()) == {"x.safetensors"}, "a shard that is not in the folder"


def test_byte_level_damage(folder):
    chance = random.Random(0)
    opened = sum(survives_damage(folder, chance) for _ in range(400))
    assert 0 < opened < 400


def survives_damage(folder: Path, chance: random.Random) -> bool:
    """Damage one file of a good folder; tell whether it still opens."""
    write_folder(folder)
    victim = chance.choice(sorted(folder.iterdir()))
    victim.write_bytes(damaged(victim.read_bytes(), chance))
    return opens_or_explains(folder)


def damaged(content: bytes, chance: random.Random) -> bytes:
    result = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(result) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            result[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            result[at:at] = chance.choice(
                [b"9" * 30, b"-", b"[" * 50, b"{", b'"', b"\xff", b"null", b"1e999", b"\0" * 9]
            )
        elif kind == 2:
            del result[at : at + chance.choice((1, 4, 40))]
        else:
            result[at:at] = result[chance.randrange(len(result) + 1) :][: chance.randrange(1, 60)]
    return bytes(result)


def main(seconds: float, seed: int) -> None:
    print(f"seed {seed}")
    chance = random.Random(seed)
    end, counts = time.monotonic() + seconds, [0, 0]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            while time.monotonic() < end:
                counts[survives_damage(Path(temporary), chance)] += 1
        except BaseException:
            print(f"kept: {shutil.copytree(temporary, tempfile.mkdtemp(), dirs_exist_ok=True)}")
            raise
    print(f"refused {counts[False]}, opened {counts[True]}")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
