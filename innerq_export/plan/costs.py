"""How memory and disk of a build follow from sizes: constants fitted to measured builds (docs/plan.md has the figures).

Every phase's peak is `fixed + per_layer x layers + per_weight x bytes of the engine's weights`, in resident bytes,
pages of mapped weights included. Measured with torch 2.13, ONNX Runtime 1.31 and TensorRT-RTX 1.7.1 on x86-64 Linux.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from innerq_export.artifacts import TensorRef

_MB = 1_000_000
_KB = 1_000
_FP32 = 4
ITEM_BYTES = {"float16": 2, "float32": 4}
SAFETENSORS_OF = {"float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Cost:
    """Bytes: `fixed`, more per layer, and per byte of weights."""

    fixed: float
    per_layer: float
    per_weight: float

    def at(self, layers: int, weight_bytes: int) -> int:
        """Return the bytes for a model of this size."""
        return int(self.fixed + self.per_layer * layers + self.per_weight * weight_bytes)


MEMORY = {
    "export": Cost(448 * _MB, 3.6 * _MB, 0),
    "write": Cost(454 * _MB, 4.4 * _MB, 0),
    "onnxruntime": Cost(480 * _MB, 5.4 * _MB, 0),
    "tensorrt-rtx": Cost(234 * _MB, 43.7 * _MB, 2.45),
    "tensorrt": Cost(1500 * _MB, 43.7 * _MB, 3.15),
    "hash": Cost(490 * _MB, 5.0 * _MB, 0),
}
"""Of this process; for NVIDIA's builders of their own process, beside which this one stays."""
STRIPPED = Cost(225 * _MB, 35.3 * _MB, 0)
"""Of TensorRT-RTX's builder when weights are inputs."""
PARITY_SMALL = {"float16": Cost(565 * _MB, 5.0 * _MB, 9.6), "float32": Cost(565 * _MB, 5.0 * _MB, 5.1)}
PARITY_LARGE = {"float16": Cost(520 * _MB, 5.0 * _MB, 5.1), "float32": Cost(520 * _MB, 5.0 * _MB, 4.0)}
"""Parity opens a second session of an engine folder below SMALL_FOLDER_BYTES."""
PARITY_STREAMED = Cost(815 * _MB, 5.0 * _MB, 1.0)
"""Above LARGE_FOLDER_BYTES weights stay mapped; `parity_memory` adds what is made of them."""
SMALL_FOLDER_BYTES, LARGE_FOLDER_BYTES = 200 << 20, 600 << 20
_LOGIT_ROWS = 1076
"""Rows of fp32 logits that are alive at once in the small set of cases: several copies of two texts of 203 tokens."""
CALIBRATION_TOKENS = 4096
_PROJECTIONS = ("q_proj", "k_proj", "qkv_proj")

MODEL_FILE = Cost(49 * _KB, 9 * _KB, 0)
PLAN_FILE = Cost(2.9 * _MB, 1.5 * _MB, 1.0)
PLAN_FILE_SPLIT = Cost(3.75 * _MB, 3.1 * _MB, 1.0)
"""With two profiles."""
PLAN_FILE_STRIPPED = Cost(3.1 * _MB, 1.6 * _MB, 0)
"""Where weights are inputs; a second profile is as much again."""
REPORT_BYTES = 40 * _KB
"""manifest.json and parity.json."""


def parity_memory(layers: int, vocab: int, tensors: Sequence[TensorRef], dtype: str, weights: int, folder: int) -> int:
    """Return the peak of parity for an engine of `weights` bytes of weights in a folder of `folder` bytes.

    Of a large one, the mapped weights, the largest of them in fp32 and the logits.
    """
    if folder <= LARGE_FOLDER_BYTES:
        cost = (PARITY_SMALL if folder < SMALL_FOLDER_BYTES else PARITY_LARGE)[dtype]
        return cost.at(layers, weights)
    largest = max((math.prod(ref.shape) for ref in tensors), default=0)
    return PARITY_STREAMED.at(layers, weights) + _FP32 * (largest + _LOGIT_ROWS * vocab)


@dataclass(frozen=True)
class Weights:
    """Bytes of weights. `stored`: as they lie in the checkpoint; `engine`: in the engine's dtype, each tensor once;
    `cast`: those of the latter that must be written anew.
    """

    stored: int
    engine: int
    cast: int


def weights_of(tensors: Sequence[TensorRef], dtype: str, key_norm: str = "prefill") -> Weights:
    """Return the sums over a checkpoint's tensors for an engine that computes in `dtype`.

    A folded key norm changes what makes queries and keys: the q/k norms where there are some, else the projections.
    """
    item, own = ITEM_BYTES[dtype], SAFETENSORS_OF[dtype]
    normed = any(_is_part(ref, "k_norm") for ref in tensors)
    changed = (("q_norm", "k_norm") if normed else _PROJECTIONS) if key_norm == "folded" else ()
    sizes = [math.prod(ref.shape) * item for ref in tensors]
    new = [ref.dtype != own or _is_part(ref, *changed) for ref in tensors]
    return Weights(
        stored=sum(ref.nbytes for ref in tensors),
        engine=sum(sizes),
        cast=sum(size for size, written in zip(sizes, new, strict=True) if written),
    )


def calibration_memory(tensors: Sequence[TensorRef], config: Mapping[str, Any]) -> int:
    """Return the peak bytes of calibrating on 4,096 tokens: the largest tensor in fp32, or a layer's activations.

    Activations: three of the MLP's width and three of the hidden size for every token.
    """
    hidden = config["hidden_size"]
    wide = config.get("intermediate_size") or 4 * hidden
    largest = max((math.prod(ref.shape) for ref in tensors), default=0)
    return int(420 * _MB) + 4 * max(largest, CALIBRATION_TOKENS * 3 * (wide + hidden))


def _is_part(ref: TensorRef, *names: str) -> bool:
    return any(f".{name}." in ref.name for name in names)
