"""Reading quantised blocks as rows of keys and values, fp32: code * scale (+ zero), SPEC section 4 backwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.spec import GROUP_SIZE, CacheConfig

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT = 1


def block_keys(op: Any, parts: list[ir.Value], head_dim: int, config: CacheConfig) -> ir.Value:
    """Return K / lambda of all blocks, [B, Hkv, NB * 32, D]; `parts` are key codes, scales and zeros of the layout."""
    codes_BHkvN32D, *numbers_BHkvN32E = parts
    grouped = op.Reshape(codes_BHkvN32D, [0, 0, 0, GROUP_SIZE, head_dim // GROUP_SIZE, GROUP_SIZE])
    numbers = [op.Unsqueeze(part, [5]) for part in numbers_BHkvN32E]
    value = _dequantise(op, grouped, numbers, config.key_bits, config.key_mode)
    return op.Reshape(value, [0, 0, -1, head_dim])


def block_values(op: Any, parts: list[ir.Value], head_dim: int, config: CacheConfig) -> ir.Value:
    """Return V of all blocks, [B, Hkv, NB * 32, D]; `parts` are value codes, scales and zeros of the layout."""
    codes_BHkvN32D, *numbers_BHkvND = parts
    numbers = [op.Unsqueeze(part, [3]) for part in numbers_BHkvND]
    value = _dequantise(op, codes_BHkvN32D, numbers, config.value_bits, config.value_mode)
    return op.Reshape(value, [0, 0, -1, head_dim])


def _dequantise(op: Any, codes: ir.Value, numbers: list[ir.Value], bits: int, mode: str) -> ir.Value:
    """Return fp32 values; `numbers` are the scale and, where the mode has one, the zero, of a shape that broadcasts."""
    code, scale = op.Cast(codes, to=_FLOAT), op.Cast(numbers[0], to=_FLOAT)
    if mode in ("symmetric", "symmetric_full"):
        return op.Mul(code, scale)
    offset: Any = float(2 ** (bits - 1))
    if mode == "hybrid":
        offset = op.Where(op.Less(scale, 0.0), offset, 0.0)
        scale = op.Abs(scale)
    zero = op.Add(op.Mul(offset, scale), op.Cast(numbers[1], to=_FLOAT))
    return op.Add(op.Mul(code, scale), zero)
