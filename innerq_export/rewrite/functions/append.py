"""The body of InnerQAppend in standard ops: SPEC sections 2, 4 and 5, for any number of new tokens, no control flow.

Old window and new tokens are read as one sequence of rows, `window ++ new tokens`. Every window slot pulls its newest
token from there. The M = min(ceil(s / 32), NB) blocks that could be due are all quantised; block j goes to place
j mod NB, and where it is not due the old block is written back, so that all places of a call are distinct and in range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.groups import QuantisedGroups, half_precision, quantise_groups
from innerq_export.rewrite.functions.places import BlockPlaces
from innerq_export.rewrite.functions.rows import Rows
from innerq_export.rewrite.functions.tokens import lengths_before_after, newest_tokens
from innerq_export.rewrite.geometry import fixed_size
from innerq_export.spec import GROUP_SIZE, CacheConfig

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT, _INT8, _FLOAT16 = 1, 3, 10


def append_body(op: Any, inputs: list[ir.Value], config: CacheConfig) -> list[ir.Value]:
    """Trace InnerQAppend: `inputs` and the returned outputs in the order of the op table, logical layout."""
    key_BHkvSD, value_BHkvSD, past_length_B, new_length_B, past_window, past_key_norm, *past_blocks = inputs
    before_B1, after_B1 = lengths_before_after(op, past_length_B, new_length_B)
    rows = Rows(op, past_window, key_BHkvSD, value_BHkvSD, config.window_tokens)
    kv_heads, head_dim = fixed_size(key_BHkvSD, 1), fixed_size(key_BHkvSD, 3)

    token_BW = newest_tokens(op, after_B1, config)
    is_new = op.GreaterOrEqual(token_BW, before_B1)
    new_row = op.Add(op.Sub(token_BW, before_B1), config.window_tokens)
    window_BPWD = rows.read(op.Where(is_new, new_row, list(range(config.window_tokens))))
    present_window = op.Reshape(window_BPWD, [0, 2, kv_heads, config.window_tokens, head_dim])

    places = BlockPlaces(op, key_BHkvSD, past_blocks[0], before_B1, after_B1, config)
    blocks_BPM32D = op.Reshape(rows.read(places.rows_BT), [0, 0, -1, GROUP_SIZE, head_dim])
    key_blocks, value_blocks = op.Split(op.Cast(blocks_BPM32D, to=_FLOAT), axis=1, num_outputs=2, _outputs=2)

    present_key_norm = op.Identity(past_key_norm)
    if config.key_norm == "prefill":
        key_norm_BHkvD = _key_norm(op, past_key_norm, key_blocks, places)
        key_blocks = op.Div(key_blocks, op.Unsqueeze(key_norm_BHkvD, [2, 3]))
        present_key_norm = op.Cast(key_norm_BHkvD, to=_FLOAT16)
    fresh = [*_key_parts(op, key_blocks, head_dim, config), *_value_parts(op, value_blocks, config)]
    present_blocks = [places.write(past, new) for past, new in zip(past_blocks, fresh, strict=True)]
    return [present_window, present_key_norm, *present_blocks]


def _key_norm(op: Any, past_BHkvD: ir.Value, key_BHkvM32D: ir.Value, places: BlockPlaces) -> ir.Value:
    """Return lambda, fp32 of fp16 values: made from the keys that are due when a sequence gets its first blocks."""
    largest = op.ReduceMax(op.Where(places.spread(places.idle_BM, 5), 0.0, op.Abs(key_BHkvM32D)), [2, 3], keepdims=0)
    made = half_precision(op, op.Sqrt(largest))
    made = op.Where(op.Equal(made, 0.0), 1.0, made)
    return op.Where(op.Unsqueeze(places.first_B1, [2]), made, op.Cast(past_BHkvD, to=_FLOAT))


def _key_parts(op: Any, key_BHkvM32D: ir.Value, head_dim: int, config: CacheConfig) -> list[ir.Value]:
    """Quantise keys over 32 channels of one token: codes [.., M, 32, D], scales (and zeros) [.., M, 32, D/32]."""
    grouped = op.Reshape(key_BHkvM32D, [0, 0, 0, GROUP_SIZE, head_dim // GROUP_SIZE, GROUP_SIZE])
    codes, *numbers = _parts(op, quantise_groups(op, grouped, -1, config.key_bits, config.key_mode), -1)
    return [op.Reshape(codes, [0, 0, 0, GROUP_SIZE, head_dim]), *numbers]


def _value_parts(op: Any, value_BHkvM32D: ir.Value, config: CacheConfig) -> list[ir.Value]:
    """Quantise values over 32 tokens of one channel: codes [.., M, 32, D], scales (and zeros) [.., M, D]."""
    return _parts(op, quantise_groups(op, value_BHkvM32D, -2, config.value_bits, config.value_mode), -2)


def _parts(op: Any, groups: QuantisedGroups, axis: int) -> list[ir.Value]:
    """Return codes int8, and scales and zeros fp16 without the group's axis."""
    numbers = [groups.scale] if groups.zero is None else [groups.scale, groups.zero]
    return [op.Cast(groups.code, to=_INT8), *(op.Squeeze(op.Cast(number, to=_FLOAT16), [axis]) for number in numbers)]
