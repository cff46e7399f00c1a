"""Tolerances of a whole model, each with its reason; those of the two ops stand in the op table (`spec/ops.py`).

Every one is proved by faults that it must see: tests/parity/test_mutations.py (the table of docs/parity.md),
tests/parity/test_recording.py, tests/runtime/test_plan_parity.py.
"""

from __future__ import annotations

import math

_ONE_LAYER_DB = {"float16": 46.0, "float32": 100.0}
TWO_SIDES_DB = 3.0
"""What the floor of logits falls by where both sides round: twice the noise power."""

QUANTISED_DB = 15.0
"""Least dB of a plan's logits once blocks exist: both sides quantise keys and values of their own, which differ in the
last place, and a code that flips is a difference of a whole step. Measured in fp16 with onnx's evaluator as the plan:
25 dB at worst; with records lost or codes one step off: below 5 dB."""

MEAN_KL = 0.01
"""Most nats, on average, between two machines' logits once blocks exist, where codes may flip for the same reason."""

FLIPPED_SHARE = 0.1
"""What flipped codes may cost beside quantisation itself, both as mean KL. Machines differ by less than fp16 and fp32
do, which were measured, each with its own cache: 1.4% on seeded weights of the demo model's shape (0.002 of 0.14 nats,
24 dB at worst) and 1.3% on the demo model (6.4e-6 of 4.9e-4)."""

LEAST_KL = 1e-4
"""What roundings may come to where quantisation costs next to nothing. The finer the codes, the more of them flip: with
noise of 2^-11 of every query, key and value, more than fp16's rounding, eight two-layer models of seeded weights differ
by 0.7 to 2.4% of what 3 bits cost, but with 8 bits by half of it to all of it, 0.7e-4 to 1.6e-4 nats."""


def most_kl(quantisation_kl: float | None) -> float:
    """Return the bar for two machines' mean KL; `quantisation_kl`: what the cache costs this model, None if unknown."""
    return MEAN_KL if quantisation_kl is None else min(MEAN_KL, max(LEAST_KL, FLIPPED_SHARE * quantisation_kl))


def model_floor_db(dtype: str, layers: int) -> float:
    """Return the least dB that keys, values and logits of a model of `layers` layers must reach.

    The engine is held to fp32 PyTorch with the same rounded weights and the same cache, so what is left is the rounding
    of activations. A unit of the last place is 66 dB (fp16) or 144 dB (fp32) below its number; every layer adds its
    own, independent of the others, so noise power grows with the layers. Measured in fp16 with 4 layers, on the demo
    model: keys and values 62.7 dB, logits 60.6 dB; on seeded weights of its shape: 52.9 and 55.4 dB.
    """
    return _ONE_LAYER_DB[dtype] - 10 * math.log10(layers)
