"""Which blocks a call moves out of the window, where their tokens come from and where they go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from innerq_export.rewrite.functions.tokens import axis_size, count_up, held_blocks, rows_of_tokens
from innerq_export.rewrite.geometry import fixed_size
from innerq_export.spec import GROUP_SIZE, CacheConfig

if TYPE_CHECKING:
    import onnx_ir as ir


class BlockPlaces:
    """The M candidate blocks of each sequence; M = min(ceil(s / 32), NB) bounds what one call can move.

    `rows_BT`: rows of their M * 32 tokens in `window ++ new tokens`; `idle_BM`: whether the block stays where it is;
    `first_B1`: whether these are the sequence's first blocks.
    """

    def __init__(
        self,
        op: Any,
        key_BHkvSD: ir.Value,
        blocks_BHkvNx: ir.Value,
        before_B1: ir.Value,
        after_B1: ir.Value,
        config: CacheConfig,
    ):
        self.op = op
        capacity_1, new_1 = axis_size(op, blocks_BHkvNx, 2), axis_size(op, key_BHkvSD, 2)
        held_B1, held_after_B1 = held_blocks(op, before_B1, config), held_blocks(op, after_B1, config)
        count_1 = op.Min(op.Div(op.Add(new_1, GROUP_SIZE - 1), GROUP_SIZE), capacity_1)
        block_BM = op.Add(held_B1, count_up(op, count_1))
        self.idle_BM = op.GreaterOrEqual(block_BM, held_after_B1)
        self.first_B1 = op.And(op.Equal(held_B1, 0), op.Greater(held_after_B1, 0))
        start_BM1 = op.Unsqueeze(op.Add(op.Mul(block_BM, GROUP_SIZE), config.sink), [2])
        token_BT = op.Reshape(op.Add(start_BM1, list(range(GROUP_SIZE))), [0, -1])
        self.rows_BT = rows_of_tokens(op, token_BT, before_B1, config)
        self.index_BHkvM3 = self._index(key_BHkvSD, op.Mod(block_BM, capacity_1))

    def write(self, past: ir.Value, fresh: ir.Value) -> ir.Value:
        """Return `past` [B, Hkv, NB, ...] with the blocks of `fresh` [B, Hkv, M, ...] that are moved at their places.

        `fresh` is the last operand of Where: a chosen -0 in the second comes out as 0 in ONNX Runtime (1.31, CPU), and
        the sign of a hybrid scale of 0 is its flag.
        """
        rank = past.shape.rank() if past.shape is not None else 0
        held = self.op.GatherND(past, self.index_BHkvM3)
        kept = self.op.Where(self.spread(self.idle_BM, rank), held, fresh)
        return self.op.ScatterND(past, self.index_BHkvM3, kept)

    def spread(self, flag_BM: ir.Value, rank: int) -> ir.Value:
        """Return a [B, M] flag as [B, 1, M, 1, ...] of the given rank."""
        return self.op.Unsqueeze(flag_BM, [1, *range(3, rank)])

    def _index(self, key_BHkvSD: ir.Value, place_BM: ir.Value) -> ir.Value:
        """Return (sequence, head, place) of every candidate, int64 [B, Hkv, M, 3]."""
        op = self.op
        sequence_B11 = op.Unsqueeze(count_up(op, axis_size(op, key_BHkvSD, 0)), [1, 2])
        head_Hkv1 = op.Unsqueeze(list(range(fixed_size(key_BHkvSD, 1))), [1])
        place_B1M = op.Unsqueeze(place_BM, [1])
        zeros_BHkvM = op.Mul(op.Add(op.Add(sequence_B11, head_Hkv1), place_B1M), 0)
        parts = [op.Unsqueeze(op.Add(part, zeros_BHkvM), [3]) for part in (sequence_B11, head_Hkv1, place_B1M)]
        return op.Concat(*parts, axis=3)
