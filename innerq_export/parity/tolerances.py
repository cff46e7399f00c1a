"""Tolerances of a whole model; those of the two ops stand in the op table (`spec/ops.py`).

dB by the dtype of the engine, against fp32 PyTorch with the same rounded weights and the same cache. What is left is
the rounding of activations, which grows with the layers: each adds a few units of the last place to the residual
stream (2^-11 of its size is 66 dB, 2^-24 is 144 dB).
"""

from __future__ import annotations

KEYS_VALUES_DB = {"float16": 36.0, "float32": 80.0}
LOGITS_DB = {"float16": 34.0, "float32": 80.0}
