"""config.json of a checkpoint: the sizes we need are there, are sizes, and fit one another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from innerq_export.checkpoint.strict_json import read_object
from innerq_export.errors import CheckpointError

_LIMITS = {
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "hidden_size": 1 << 17,
    "vocab_size": 1 << 24,
    "max_position_embeddings": 1 << 30,
}
_OPTIONAL_LIMITS = {"num_key_value_heads": 1 << 12, "head_dim": 1 << 12, "intermediate_size": 1 << 20}


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of `folder` with its sizes checked. Raises CheckpointError that names the field."""
    file = folder / "config.json"
    config = read_object(file)
    for name, limit in _LIMITS.items():
        _check_size(file, config, name, limit)
    for name, limit in _OPTIONAL_LIMITS.items():
        if config.get(name) is not None:
            _check_size(file, config, name, limit)
    _check_heads(file, config)
    return config


def _check_size(file: Path, config: Mapping[str, Any], name: str, limit: int) -> None:
    value = config.get(name)
    if type(value) is not int or not 1 <= value <= limit:
        expected = f"an integer from 1 to {limit}"
        got = str(config.get(name, "nothing"))[:200]
        raise CheckpointError(f"{file}: field '{name}'", expected=expected, got=got, fix="correct config.json")


def _check_heads(file: Path, config: Mapping[str, Any]) -> None:
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        expected = f"a divisor of num_attention_heads {heads}"
        raise CheckpointError(
            f"{file}: field 'num_key_value_heads'", expected=expected, got=kv_heads, fix="correct config.json"
        )
    if config.get("head_dim") is None and config["hidden_size"] % heads:
        expected = f"a multiple of num_attention_heads {heads}, or a 'head_dim'"
        raise CheckpointError(
            f"{file}: field 'hidden_size'", expected=expected, got=config["hidden_size"], fix="correct config.json"
        )
