"""A config.json in transformers' own classes: never code of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from innerq_export.errors import CheckpointError

_CODE_FIELDS = ("auto_map", "custom_pipelines")


def parsed_config(config: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the fields of a config.json, without those that name code, as the installed transformers has them."""
    fields = {name: value for name, value in config.items() if name not in _CODE_FIELDS}
    return CONFIG_MAPPING[fields["model_type"]].from_dict(fields)


@contextmanager
def building_a_model() -> Iterator[None]:
    """Turn whatever transformers raises meanwhile, but for want of memory, into a CheckpointError."""
    try:
        yield
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CheckpointError(
            "transformers cannot build this model from config.json",
            got=f"{type(error).__name__}: {str(error)[:300]}",
            fix="correct config.json, or update transformers",
        ) from error
