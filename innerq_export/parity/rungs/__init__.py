"""The rungs, bottom up: each trusts the ones below it, so the first that fails says where the fault is."""

from __future__ import annotations

from innerq_export.parity.rungs.attention import AttentionRung
from innerq_export.parity.rungs.base import Rung
from innerq_export.parity.rungs.cache import CacheRung
from innerq_export.parity.rungs.full_precision import FullPrecisionRung
from innerq_export.parity.rungs.keys_values import KeysValuesRung
from innerq_export.parity.rungs.logits import LogitsRung
from innerq_export.parity.rungs.shipped import ShippedRung
from innerq_export.parity.rungs.tokens import TokensRung
from innerq_export.parity.rungs.unquantised import UnquantisedRung

__all__ = [
    "AttentionRung",
    "CacheRung",
    "FullPrecisionRung",
    "KeysValuesRung",
    "LogitsRung",
    "Rung",
    "ShippedRung",
    "TokensRung",
    "UnquantisedRung",
]
