"""Tolerances of a whole model; those of the two ops stand in the op table (`spec/ops.py`).

The engine is held to fp32 PyTorch with the same rounded weights and the same cache, so what is left is the rounding of
activations. A unit of the last place is 66 dB (fp16) or 144 dB (fp32) below its number; every layer adds its own,
independent of the others, so noise power grows with the layers. Measured on the demo model (4 layers, 2588 calls times
layers): keys and values 52.9 dB, logits 55.4 dB in fp16. The faults that must show stay below 25 dB (tests/parity).
"""

from __future__ import annotations

import math

_ONE_LAYER_DB = {"float16": 46.0, "float32": 100.0}


def model_floor_db(dtype: str, layers: int) -> float:
    """Return the least dB that keys, values and logits of a model of `layers` layers must reach."""
    return _ONE_LAYER_DB[dtype] - 10 * math.log10(layers)
