"""What the stages hand on: checkpoint -> graph -> ONNX model -> engine. Frozen, content-hashed, free of torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from innerq_export.spec import CacheConfig

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

LOWERINGS = ("native", "plugin")


@dataclass(frozen=True)
class TensorRef:
    """Where the bytes of one checkpoint tensor lie: `nbytes` at `offset` of a safetensors file.

    Little-endian, row-major. `dtype` is the safetensors name: F16, BF16, F32, ...
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, eq=False)
class KeyNorm:
    """lambda of one checkpoint for `key_norm="folded"` (SPEC section 5): fp16 [L, Hkv, D], positive and finite.

    `checkpoint`: digest of the checkpoint it was calibrated on; `text`: name of the text, `tokens`: how many of it.
    """

    lambda_LHkvD: np.ndarray
    checkpoint: str
    text: str
    tokens: int

    @property
    def summary(self) -> str:
        """One line for people."""
        smallest, largest = self.lambda_LHkvD.min(), self.lambda_LHkvD.max()
        return f"calibrated on {self.tokens:,} tokens of {self.text}, lambda {smallest:.3g} to {largest:.3g}"


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face checkpoint folder, headers read, no weights loaded.

    `source` is what the user named; `config` the parsed config.json; `tensors` by checkpoint name;
    `notes` is what must be said wherever the model is printed (for instance that its weights are random);
    `key_norm` is folded into queries and keys wherever the weights are read, and `digest` tells it apart.
    """

    source: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorRef]
    tokenizer_files: tuple[Path, ...]
    digest: str
    notes: tuple[str, ...] = ()
    key_norm: KeyNorm | None = None

    @property
    def shape(self) -> ModelShape:
        """The sizes that the cache depends on."""
        return ModelShape.from_config(self.config)


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder: Hq query heads share Hkv key/value heads of D channels, in every one of `layers` layers."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read the sizes from a Hugging Face config; `num_key_value_heads` and `head_dim` have the usual defaults."""
        heads = config["num_attention_heads"]
        return cls(
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab=config["vocab_size"],
            max_positions=config["max_position_embeddings"],
        )


@dataclass(frozen=True)
class Graph:
    """A decoder as ONNX opset 23 with standard `Attention` nodes; initializers refer to the checkpoint's bytes.

    Inputs `input_ids [B, S]`, `position_ids [B, S]`; output `logits [B, S, V]`. `dtype` is 'float16' or 'float32'.
    """

    model: ir.Model
    shape: ModelShape
    dtype: str
    digest: str


@dataclass(frozen=True)
class WeightFile:
    """A file of weights beside model.onnx: `how` is 'linked' (to the checkpoint) or 'copied', and `reason` why."""

    name: str
    how: str
    nbytes: int
    reason: str


@dataclass(frozen=True)
class OnnxModel:
    """A rewritten graph on disk: `path` is model.onnx, its weights lie beside it.

    `lowering` is 'native' (function bodies, logical layout) or 'plugin' (bare nodes, packed layout).
    `weights`: the files beside it, empty when all weights are small enough to lie inside.
    """

    path: Path
    lowering: str
    cache: CacheConfig
    shape: ModelShape
    dtype: str
    digest: str
    weights: tuple[WeightFile, ...] = ()

    @property
    def weight_paths(self) -> tuple[Path, ...]:
        """The files of `weights`."""
        return tuple(self.path.with_name(file.name) for file in self.weights)


@dataclass(frozen=True)
class Engine:
    """An engine folder whose `manifest` (manifest.json, parsed) has been checked against this build."""

    folder: Path
    manifest: Mapping[str, Any]


def digest_of(*parts: object) -> str:
    """Return a SHA-256 hex digest over JSON values, bytes and paths' contents; equal inputs give equal digests."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(_bytes_of(part)).digest())
    return total.hexdigest()


def _bytes_of(part: object) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, Path):
        return part.read_bytes()
    return json.dumps(part, sort_keys=True, default=str).encode()
