"""inspect: sizes, cost and damage of a folder, as plain values."""

import json

import pytest

from innerq_export.engine import inspect_engine
from innerq_export.errors import UserError
from innerq_export.spec import record_bytes
from tests.engine.toy import CACHE, toy_engine


def test_sizes_and_cost(tmp_path):
    folder = toy_engine(tmp_path / "engine")
    found = inspect_engine(folder)
    assert found.damage is None
    assert found.manifest.ready
    assert found.preset == "custom"
    assert found.total_bytes == (folder / "model.onnx").stat().st_size
    assert found.cost.bytes_per_token == record_bytes(CACHE, 32) / 32 == 28
    assert found.cost.fp16_bytes_per_token == 128
    assert found.cost.ratio == 128 / 28
    assert found.cost.window_bytes == 2 * 36 * 32 * 2


def test_it_is_plain_json(tmp_path):
    found = inspect_engine(toy_engine(tmp_path / "engine"))
    assert json.loads(json.dumps(found.to_dict()))["kv"]["bytes_per_token"] == 28


def test_damage_is_reported_not_raised(tmp_path):
    folder = toy_engine(tmp_path / "engine")
    (folder / "model.onnx").unlink()
    assert "is missing" in (inspect_engine(folder).damage or "")


def test_a_folder_without_manifest_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="no engine folder"):
        inspect_engine(tmp_path)
