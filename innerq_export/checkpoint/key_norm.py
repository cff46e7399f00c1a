"""A file of key normalisation: lambda of one checkpoint, calibrated once, for `key_norm="folded"` (SPEC section 5).

safetensors with one tensor `key_norm` F16 [layers, Hkv, D]; its metadata say which checkpoint and which text it is of.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np

from innerq_export.artifacts import Checkpoint, KeyNorm, TensorRef, digest_of
from innerq_export.checkpoint.header import read_header, read_metadata
from innerq_export.errors import CheckpointError, ConfigError, UserError
from innerq_export.spec import CacheConfig

FILE_NAME = "key_norm.safetensors"
_FORMAT = "innerq_export key_norm 1"
_TENSOR = "key_norm"
_FIX = "calibrate again: innerq-export calibrate MODEL --text FILE -o KEY_NORM"


def write_key_norm(norm: KeyNorm, file: Path) -> None:
    """Write `file` in one rename. Raises UserError where that cannot be."""
    from safetensors.numpy import save

    facts = {"checkpoint": norm.checkpoint, "text": norm.text, "tokens": str(norm.tokens)}
    draft = file.with_name(f".{file.name}.new")
    try:
        draft.write_bytes(save({_TENSOR: norm.lambda_LHkvD}, metadata={"format": _FORMAT} | facts))
        os.replace(draft, file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UserError(f"{file} cannot be written", got=error, fix="name another file with -o") from error


def read_key_norm(file: Path) -> KeyNorm:
    """Return what `write_key_norm` wrote. CheckpointError or ConfigError for anything else, with the value at fault."""
    tensors, facts = _header(file)
    ref = tensors.get(_TENSOR)
    if facts.get("format") != _FORMAT or len(tensors) != 1 or ref is None or not facts.get("tokens", "").isdigit():
        got = f"format {facts.get('format', 'of something else')!r}, tensors {', '.join(list(tensors)[:3])}"
        raise ConfigError(f"{file} is no file of key normalisation", expected=_FORMAT, got=got[:200], fix=_FIX)
    if ref.dtype != "F16" or len(ref.shape) != 3:
        raise ConfigError(
            f"{file}: malformed", expected="F16 [layers, Hkv, D]", got=f"{ref.dtype} {ref.shape}", fix=_FIX
        )
    found = np.fromfile(file, "<f2", offset=ref.offset, count=ref.nbytes // 2).reshape(ref.shape)
    _check_values(found, file)
    return KeyNorm(found, facts.get("checkpoint", ""), facts.get("text", ""), int(facts["tokens"]))


def _header(file: Path) -> tuple[dict[str, TensorRef], dict[str, str]]:
    try:
        return read_header(file), read_metadata(file)
    except CheckpointError as error:
        raise CheckpointError(error.what, expected=error.expected, got=error.got, fix=_FIX) from error


def folded(checkpoint: Checkpoint, norm: KeyNorm) -> Checkpoint:
    """Return `checkpoint` with `norm`, under a digest of its own. ConfigError if `norm` is of other weights."""
    shape = checkpoint.shape
    expected = (shape.layers, shape.kv_heads, shape.head_dim)
    if norm.lambda_LHkvD.shape != expected:
        got = norm.lambda_LHkvD.shape
        raise ConfigError("the key normalisation is of another model", expected=expected, got=got, fix=_FIX)
    if norm.checkpoint != checkpoint.digest:
        raise ConfigError(
            "the key normalisation was calibrated on other weights",
            expected=f"checkpoint {checkpoint.digest[:16]}",
            got=norm.checkpoint[:16],
            fix=_FIX,
        )
    return dataclasses.replace(
        checkpoint,
        key_norm=norm,
        digest=digest_of(checkpoint.digest, norm.lambda_LHkvD.tobytes()),
        notes=(*checkpoint.notes, f"key normalisation folded into the weights, {norm.summary}"),
    )


def as_built(checkpoint: Checkpoint, cache: CacheConfig, folder: Path) -> Checkpoint:
    """Return `checkpoint` as the engine in `folder` has it: with the key norm that was folded into its weights."""
    return folded(checkpoint, read_key_norm(folder / FILE_NAME)) if cache.key_norm == "folded" else checkpoint


def _check_values(found: np.ndarray, file: Path) -> None:
    bad = np.argwhere(~(np.isfinite(found) & (found > 0)))
    if len(bad):
        layer, head, channel = bad[0].tolist()
        raise ConfigError(
            f"{file}: lambda of layer {layer}, KV head {head}, channel {channel}",
            expected="a positive finite number",
            got=found[layer, head, channel],
            fix=_FIX,
        )
