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
    rows = Rows(op, past_window, key_BHkvSD, value_BHkvSD)

    token_BW = newest_tokens(op, after_B1, config)
    is_new = op.GreaterOrEqual(token_BW, before_B1)
    new_row = op.Add(op.Sub(token_BW, before_B1), config.window_tokens)
    present_window = rows.read(op.Where(is_new, new_row, list(range(config.window_tokens))))

    places = BlockPlaces(op, key_BHkvSD, past_blocks[0], before_B1, after_B1, config)
    tokens_B2HkvTD = op.Cast(rows.read(places.rows_BT), to=_FLOAT)
    key_BHkvTD, value_BHkvTD = op.Split(tokens_B2HkvTD, axis=1, num_outputs=2, _outputs=2)
    head_dim = fixed_size(key_BHkvSD, 3)
    key_blocks = op.Reshape(op.Squeeze(key_BHkvTD, [1]), [0, 0, -1, GROUP_SIZE, head_dim])
    value_blocks = op.Reshape(op.Squeeze(value_BHkvTD, [1]), [0, 0, -1, GROUP_SIZE, head_dim])

    present_key_norm = past_key_norm
    if config.key_norm == "prefill":
        present_key_norm = _key_norm(op, past_key_norm, key_blocks, places)
    key_parts = _key_parts(op, key_blocks, present_key_norm, config)
    value_parts = _value_parts(op, value_blocks, config)
    fresh = [*key_parts, *value_parts]
    present_blocks = [places.write(past, new) for past, new in zip(past_blocks, fresh, strict=True)]
    return [present_window, op.Identity(present_key_norm), *present_blocks]


def _key_norm(op: Any, past_BHkvD: ir.Value, key_BHkvM32D: ir.Value, places: BlockPlaces) -> ir.Value:
    """Return lambda: made from the keys that are due when a sequence gets its first blocks, and kept ever after."""
    largest = op.ReduceMax(op.Where(places.spread(places.due_BM, 5), op.Abs(key_BHkvM32D), 0.0), [2, 3], keepdims=0)
    made = half_precision(op, op.Sqrt(largest))
    made = op.Where(op.Equal(made, 0.0), 1.0, made)
    kept = op.Where(op.Unsqueeze(places.first_B1, [2]), made, op.Cast(past_BHkvD, to=_FLOAT))
    return op.Cast(kept, to=_FLOAT16)


def _key_parts(op: Any, key_BHkvM32D: ir.Value, key_norm_BHkvD: ir.Value, config: CacheConfig) -> list[ir.Value]:
    """Quantise keys over 32 channels of one token: codes [.., M, 32, D], scales (and zeros) [.., M, 32, D/32]."""
    if config.key_norm == "prefill":
        key_BHkvM32D = op.Div(key_BHkvM32D, op.Unsqueeze(op.Cast(key_norm_BHkvD, to=_FLOAT), [2, 3]))
    head_dim = fixed_size(key_norm_BHkvD, 2)
    grouped = op.Reshape(key_BHkvM32D, [0, 0, 0, GROUP_SIZE, head_dim // GROUP_SIZE, GROUP_SIZE])
    groups = quantise_groups(op, grouped, -1, config.key_bits, config.key_mode)
    return _parts(op, groups, -1, [0, 0, 0, GROUP_SIZE, head_dim])


def _value_parts(op: Any, value_BHkvM32D: ir.Value, config: CacheConfig) -> list[ir.Value]:
    """Quantise values over 32 tokens of one channel: codes [.., M, 32, D], scales (and zeros) [.., M, D]."""
    groups = quantise_groups(op, value_BHkvM32D, -2, config.value_bits, config.value_mode)
    return _parts(op, groups, -2, [0, 0, 0, GROUP_SIZE, -1])


def _parts(op: Any, groups: QuantisedGroups, axis: int, code_shape: list[int]) -> list[ir.Value]:
    numbers = [groups.scale] if groups.zero is None else [groups.scale, groups.zero]
    halves = [op.Squeeze(op.Cast(number, to=_FLOAT16), [axis]) for number in numbers]
    return [op.Reshape(op.Cast(groups.code, to=_INT8), code_shape), *halves]
