"""manifest.json: round trip, strictness, and messages that name field and fix."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innerq_export.artifacts import WeightFile
from innerq_export.engine import Manifest, read_manifest, rebuild_command
from innerq_export.engine.manifest import FileEntry
from innerq_export.errors import EnvironmentMismatchError, UserError
from innerq_export.spec import BITS, MODES, PRESETS, CacheConfig
from tests.engine.toy import SHAPE, toy_engine

WHERE = Path("engines/toy")
caches = st.builds(
    CacheConfig,
    key_bits=st.sampled_from(BITS),
    value_mode=st.sampled_from(MODES),
    sink=st.integers(0, 99),
    recent=st.integers(0, 99),
)


def manifest(**changes) -> Manifest:
    fields = {
        "tool_version": "0.1.0",
        "created": "2026-11-22T07:00:00+00:00",
        "source": "llama",
        "source_digest": "d",
        "notes": ("noise",),
        "lowering": "native",
        "dtype": "float16",
        "model": SHAPE,
        "cache": CacheConfig(),
        "max_batch": 4,
        "max_context": 256,
        "versions": {"python": "3.11"},
        "backends": {"onnxruntime": {"files": ["model.onnx"], "versions": {"onnxruntime": "1.31.1"}}},
        "files": {"model.onnx": FileEntry(3, "ab", 5)},
        "weights": (WeightFile("model.safetensors", "linked", 9, ""),),
    }
    return Manifest(**fields | changes)


@given(caches, st.booleans(), st.lists(st.text(), max_size=2))
def test_round_trip(cache, ready, notes):
    original = manifest(cache=cache, ready=ready, notes=tuple(notes), aliases=(("past_blocks_0", "present_blocks_0"),))
    assert Manifest.from_dict(json.loads(original.to_json()), WHERE) == original


def test_another_schema_is_refused_with_both_sides_and_the_command():
    fields = manifest().to_dict() | {"schema": 7, "tool_version": "9.9"}
    with pytest.raises(EnvironmentMismatchError) as caught:
        Manifest.from_dict(fields, WHERE)
    for word in ("schema 1", "schema 7", "innerq-export 9.9", "innerq-export build --model llama"):
        assert word in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["cache", "files", "model", "backends", "lowering"])
def test_a_missing_field_is_named(name):
    fields = manifest().to_dict()
    del fields[name]
    with pytest.raises(UserError, match=f"{name} is missing"):
        Manifest.from_dict(fields, WHERE)


def test_an_unknown_field_gets_the_nearest_name():
    with pytest.raises(UserError, match="readdy is unknown, did you mean 'ready'"):
        Manifest.from_dict(manifest().to_dict() | {"readdy": True}, WHERE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lowering", "magic"),
        ("ready", "yes"),
        ("model", {"layers": 1}),
        ("files", {"model.onnx": {"size": 3}}),
        ("files", ["model.onnx"]),
        ("aliases", [["only one"]]),
        ("cache", {"spec_version": 1, "key_bit": 3}),
        ("notes", 5),
        ("backends", {"onnxruntime": {}}),
        ("backends", ["onnxruntime"]),
    ],
)
def test_a_broken_field_is_a_users_error(name, value):
    with pytest.raises(UserError):
        Manifest.from_dict(manifest().to_dict() | {name: value}, WHERE)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", '{"schema": 1}'])
def test_a_broken_file_is_a_users_error(tmp_path, text):
    folder = toy_engine(tmp_path / "engine")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError):
        read_manifest(folder)


def test_the_rebuild_command_says_everything_that_was_chosen():
    backends = {"onnxruntime": {}, "tensorrt-rtx": {}}
    command = rebuild_command(manifest(backends=backends, cache=PRESETS["compact"], source="my model"), WHERE)
    assert command == (
        "innerq-export build --model 'my model' --preset compact --backend tensorrt-rtx "
        "--max-batch 4 --max-context 256 --output engines/toy --overwrite"
    )
    stripped = {"onnxruntime": {}, "tensorrt-rtx": {"weights": "model.onnx"}}
    assert "--backend tensorrt-rtx --strip-weights --max" in rebuild_command(manifest(backends=stripped), WHERE)


def test_the_rebuild_command_of_a_custom_cache_names_its_fields():
    assert "--cache key_bits=8 --cache sink=7" in rebuild_command(
        manifest(cache=CacheConfig(key_bits=8, sink=7)), WHERE
    )
