"""A checkpoint's config and tensor positions, local or on the hub: no weight is read, none is downloaded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from innerq_export.artifacts import ModelShape, TensorRef, digest_of
from innerq_export.checkpoint import demo, hub
from innerq_export.checkpoint.config import read_config
from innerq_export.checkpoint.folder import read_tensors
from innerq_export.checkpoint.header import ITEM_BYTES
from innerq_export.checkpoint.open import no_model
from innerq_export.checkpoint.window import within_window
from innerq_export.errors import CheckpointError, ConfigError
from innerq_export.progress import Silent


@dataclass(frozen=True)
class Headers:
    """What is known before any work. `to_download`: bytes of weights that are still on the hub."""

    source: str
    folder: Path
    config: Mapping[str, Any]
    tensors: tuple[TensorRef, ...]
    to_download: int
    notes: tuple[str, ...]

    @property
    def shape(self) -> ModelShape:
        """The sizes that the cache depends on."""
        return ModelShape.from_config(self.config)

    @property
    def digest(self) -> str:
        """SHA-256 over the config and every tensor's name, dtype and shape: another model has another one."""
        rows = sorted([ref.name, ref.dtype, list(ref.shape)] for ref in self.tensors)
        return digest_of(dict(self.config), rows)


def read_headers(source: str) -> Headers:
    """Return the headers of 'llama', a folder or a hub id; a hub model costs config.json and a few range requests.

    Raises CheckpointError or EnvironmentMismatchError like `open_checkpoint`, ConfigError for an .onnx file.
    """
    if source.endswith(".onnx"):
        raise ConfigError(
            "a plan is made from a checkpoint's headers",
            expected="a Hugging Face folder or hub id",
            got=source,
            fix="build the .onnx directly: innerq-export build",
        )
    if source == demo.NAME:
        return _local(source, demo.demo_folder())
    if os.path.isdir(source):
        return _local(source, Path(source))
    if os.path.exists(source) or not hub.is_hub_id(source):
        raise no_model(source)
    return _remote(source)


def _local(source: str, folder: Path) -> Headers:
    folder = folder.absolute()
    config, notes = within_window(read_config(folder))
    with Silent().stage("reading headers") as step:
        tensors = read_tensors(folder, step)
    return Headers(source, folder, config, tuple(tensors.values()), 0, notes)


def _remote(source: str) -> Headers:
    from huggingface_hub import get_safetensors_metadata, hf_hub_download, snapshot_download

    try:
        return _local(source, Path(snapshot_download(source, local_files_only=True)))
    except (CheckpointError, OSError):
        pass
    try:
        folder = Path(hf_hub_download(source, "config.json")).parent
        files = get_safetensors_metadata(source).files_metadata
    except Exception as error:
        raise hub.explain(source, error) from error
    config, notes = within_window(read_config(folder))
    tensors = tuple(ref for name, file in files.items() for ref in _refs(folder / name, file.tensors))
    return Headers(source, folder, config, tensors, sum(ref.nbytes for ref in tensors), notes)


def _refs(file: Path, tensors: Mapping[str, Any]) -> Iterator[TensorRef]:
    """Yield huggingface_hub's TensorInfo as ours. CheckpointError for a dtype that safetensors does not have."""
    for name, info in tensors.items():
        begin, end = info.data_offsets
        if info.dtype not in ITEM_BYTES or end - begin != math.prod(info.shape) * ITEM_BYTES[info.dtype]:
            raise CheckpointError(
                f"{file.name}: tensor '{name[:200]}' is malformed",
                got=f"{info.dtype} {info.shape}",
                fix="take another revision of the model",
            )
        yield TensorRef(name, info.dtype, tuple(info.shape), file, begin, end - begin)
