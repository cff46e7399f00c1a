"""A Hugging Face model folder: config.json, safetensors files (one, or shards with an index), tokenizer files."""

from __future__ import annotations

import os
from pathlib import Path

from innerq_export.artifacts import Checkpoint, TensorRef, digest_of
from innerq_export.checkpoint.config import read_config
from innerq_export.checkpoint.digest import weights_digest
from innerq_export.checkpoint.header import read_header
from innerq_export.checkpoint.strict_json import read_object
from innerq_export.checkpoint.support import check_support
from innerq_export.checkpoint.window import within_window
from innerq_export.errors import CheckpointError
from innerq_export.progress import Step

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_FIX = "download the checkpoint again, or write it with save_pretrained"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


def read_folder(folder: Path, step: Step, source: str | None = None, notes: tuple[str, ...] = ()) -> Checkpoint:
    """Return the checkpoint in `folder`; `source` is what the user named. Raises CheckpointError.

    Refused before any weight is read: unsupported models, pickled weights, malformed or truncated files.
    """
    folder = folder.absolute()
    config = read_config(folder)
    check_support(config)
    config, window_notes = within_window(config)
    tensors = read_tensors(folder, step)
    return Checkpoint(
        source=source or str(folder),
        folder=folder,
        config=config,
        tensors=tensors,
        tokenizer_files=tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file()),
        digest=digest_of(config, weights_digest(tensors.values())),
        notes=notes + window_notes,
    )


def read_tensors(folder: Path, step: Step) -> dict[str, TensorRef]:
    """Return where every tensor of the folder lies, from headers and index alone. Raises CheckpointError."""
    if (folder / INDEX).exists():
        return _read_shards(folder, step)
    if os.path.lexists(folder / SINGLE):
        return read_header(folder / SINGLE)
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickled:
        raise CheckpointError(
            f"{folder}: pickled weights are refused, because loading them can run code",
            expected=f"{SINGLE}, or shards with {INDEX}",
            got=", ".join(pickled[:3]),
            fix="load it once in transformers where you trust it, and write it with save_pretrained",
        )
    raise CheckpointError(
        f"{folder}: no weights", expected=f"{SINGLE}, or shards with {INDEX}", got="neither", fix=_FIX
    )


def _read_shards(folder: Path, step: Step) -> dict[str, TensorRef]:
    weight_map = read_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX}: no 'weight_map' object", fix="download the checkpoint again")
    shards = sorted({_shard_name(folder, name, shard) for name, shard in weight_map.items()})
    tensors: dict[str, TensorRef] = {}
    for number, shard in enumerate(shards):
        step.advance(number / len(shards), shard)
        _merge(tensors, {name: ref for name, ref in read_header(folder / shard).items()}, shard)
    for name, shard in weight_map.items():
        if name not in tensors or tensors[name].file.name != shard:
            got = tensors[name].file.name if name in tensors else "no file"
            raise CheckpointError(
                f"{folder / INDEX}: tensor '{name[:200]}' is not where the index says",
                expected=shard,
                got=got,
                fix=_FIX,
            )
    return tensors


def _shard_name(folder: Path, name: str, shard: object) -> str:
    if not isinstance(shard, str) or shard != os.path.basename(shard) or "\\" in shard or "\0" in shard:
        raise CheckpointError(
            f"{folder / INDEX}: tensor '{name[:200]}' points outside the folder",
            expected="the name of a file in the folder",
            got=str(shard)[:200],
            fix="download the checkpoint again, from a source you trust",
        )
    if not shard.endswith(".safetensors"):
        raise CheckpointError(
            f"{folder / INDEX}: not a safetensors file", got=shard[:200], fix="convert the checkpoint"
        )
    return shard


def _merge(tensors: dict[str, TensorRef], more: dict[str, TensorRef], shard: str) -> None:
    for name, ref in more.items():
        if name in tensors:
            got = f"{tensors[name].file.name} and {shard}"
            raise CheckpointError(f"tensor '{name[:200]}' is in two files", got=got, fix="remove the stale file")
        tensors[name] = ref
