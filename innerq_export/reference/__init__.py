"""The InnerQ cache in torch, fp32 and obvious: what every other implementation is held against (SPEC.md)."""

from innerq_export.reference.attention import attend, attend_over, dequantised_history
from innerq_export.reference.blocks import Blocks, dequantise_blocks, empty_blocks, quantise_blocks
from innerq_export.reference.cache import Cache, append, empty_cache, slot_of
from innerq_export.reference.packed import pack, unpack
from innerq_export.reference.quantise import Quantised, dequantise, quantise

__all__ = [
    "Blocks",
    "Cache",
    "Quantised",
    "append",
    "attend",
    "attend_over",
    "dequantise",
    "dequantise_blocks",
    "dequantised_history",
    "empty_blocks",
    "empty_cache",
    "pack",
    "quantise",
    "quantise_blocks",
    "slot_of",
    "unpack",
]
