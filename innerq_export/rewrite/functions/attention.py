"""The body of InnerQAttention in standard ops: SPEC section 7, over the columns blocks | window | new tokens.

A row i sees a column when it is a token before the call that the cache really holds there, or a new token j <= i:

    block column c     token S + c       seen if token < past and c < 32 q(n)
    window slot w      token tau(w)      seen if tau(w) < past and it is not in a block
    new token j        token past + j    seen if j <= i

Rows of padding (i >= new_length) come out as 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.blocks import block_keys, block_values
from innerq_export.rewrite.functions.flavours import Columns, with_attention_op, with_products
from innerq_export.rewrite.functions.mask import real_rows, visible_columns
from innerq_export.rewrite.functions.tokens import axis_size, held_blocks, lengths_before_after
from innerq_export.rewrite.geometry import fixed_size
from innerq_export.spec import CacheConfig, has_zeros

if TYPE_CHECKING:
    import onnx_ir as ir

FLAVOURS = ("matmul", "attention")


def attention_body(op: Any, inputs: list[ir.Value], config: CacheConfig, scale: float, flavour: str) -> ir.Value:
    """Trace InnerQAttention: `inputs` in the order of the op table, logical layout; returns [B, Hq, S, D]."""
    query_BHqSD, key_BHkvSD, value_BHkvSD, past_length_B, new_length_B, window, key_norm_BHkvD, *blocks = inputs
    before_B1, after_B1 = lengths_before_after(op, past_length_B, new_length_B)
    held_B1 = held_blocks(op, after_B1, config)
    if flavour == "matmul":
        blocks = _held_alone(op, blocks, held_B1)
    new_1, blocks_1 = axis_size(op, key_BHkvSD, 2), axis_size(op, blocks[0], 2)
    seen = visible_columns(op, before_B1, after_B1, held_B1, new_1, blocks_1, config)

    key_parts = 3 if has_zeros(config.key_mode) else 2
    head_dim = fixed_size(query_BHqSD, 3)
    held = Columns(
        block_keys(op, blocks[:key_parts], head_dim, config), block_values(op, blocks[key_parts:], head_dim, config)
    )
    window_parts = [op.Gather(window, index, axis=1) for index in (0, 1)]
    recent = [Columns(*window_parts), Columns(key_BHkvSD, value_BHkvSD)]
    attend = with_attention_op if flavour == "attention" else with_products
    attended = attend(op, query_BHqSD, key_norm_BHkvD, held, recent, seen, scale)
    padded = op.Where(real_rows(op, new_length_B, new_1), attended, 0.0)
    return padded if padded.dtype == query_BHqSD.dtype else op.Cast(padded, to=query_BHqSD.dtype)


def _held_alone(op: Any, blocks: list[ir.Value], held_B1: ir.Value) -> list[ir.Value]:
    """Return the first max(q(n)) blocks: time then follows the length, not the capacity.

    A size that depends on data: ONNX Runtime takes it, TensorRT-RTX does not.
    """
    most_1 = op.Max(op.ReduceMax(held_B1, [0, 1], keepdims=0), [1])
    return [op.Slice(part, [0], most_1, [2]) for part in blocks]
