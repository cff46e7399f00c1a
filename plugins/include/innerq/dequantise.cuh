// Reading a cache back: dequantised into plain keys and values in token order.
#pragma once

#include "innerq/tile.cuh"

namespace innerq {

// Plain keys and values of tokens 0 .. tokens - 1 below length: activation dtype [B, Hkv, T, D], contiguous, zeros from
// length on. The cache holds length + fresh tokens, where `fresh` are those that the running call has appended.
struct DequantiseParams {
    CacheParams cache;
    uint16_t *key, *value;
    int64_t tokens;  // T
    const int32_t *length_B;
    int fresh;
    const int32_t *fresh_B;  // may be NULL: `fresh` for all
};

INNERQ_HD inline uint16_t *plain_row(const DequantiseParams &params, TilePlace at, int64_t token) {
    const int64_t head = static_cast<int64_t>(at.batch) * params.cache.kv_heads + at.head;
    uint16_t *out = at.part == kKeys ? params.key : params.value;
    return out + (head * params.tokens + token) * params.cache.head_dim + kGroup * at.tile;
}

// Turns the lane's group of stored codes into bits of fp32 values; keys come out multiplied by lambda.
INNERQ_HD inline void dequantise_lane(const TileParts &parts, TilePlace at, bool scaled, TileScratch &scratch,
                                      int lane) {
    const GroupScale scale = load_scale(parts, at.part, at.tile, lane);
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) {
        uint32_t &cell = group_cell(scratch, at.part, lane, i);
        const float value = dequantise(static_cast<int>(cell), scale, parts.bits, parts.mode);
        cell = float_bits(scaled ? ieee::multiply(value, scratch.lambda[i]) : value);
    }
}

// Fills the cells with the fp32 values of one tile of `record`.
INNERQ_HD inline void dequantise_tile(const CacheParams &cache, uint8_t *record, TilePlace at, TileScratch &scratch,
                                      const Warp &each_lane) {
    const TileParts parts = parts_of(cache, record, at.part);
    const bool scaled = at.part == kKeys && cache.learns_lambda;
    each_lane([&](int lane) {
        load_codes(parts, scratch, at.part, at.tile, lane);
        if (scaled) scratch.lambda[lane] = from_half(lambda_row(cache, at.batch, at.head)[kGroup * at.tile + lane]);
    });
    each_lane([&](int lane) { dequantise_lane(parts, at, scaled, scratch, lane); });
}

// Writes a row of cells, 32 numbers, in activation dtype.
INNERQ_HD inline void store_row(const TileScratch &scratch, int row, bool bf16, uint16_t *to) {
    INNERQ_UNROLL
    for (int i = 0; i < 4; ++i) {
        Chunk chunk;
        INNERQ_UNROLL
        for (int w = 0; w < 4; ++w) {
            const uint32_t low = to_activation(bits_float(scratch.cells[row][8 * i + 2 * w]), bf16);
            const uint32_t high = to_activation(bits_float(scratch.cells[row][8 * i + 2 * w + 1]), bf16);
            chunk.words[w] = low | (high << 16);
        }
        store_chunk(to + 8 * i, chunk);
    }
}

// Tokens of block `block` that are quantised, at one tile place.
INNERQ_HD inline void read_block(const DequantiseParams &params, TilePlace at, int64_t block, int64_t end,
                                 TileScratch &scratch, const Warp &each_lane) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    if (record != nullptr) dequantise_tile(params.cache, record, at, scratch, each_lane);
    each_lane([&](int lane) {
        const int64_t token = params.cache.sink + kGroup * block + lane;
        if (token >= end) return;
        if (record == nullptr) {
            for (int i = 0; i < 4; ++i) store_chunk(plain_row(params, at, token) + 8 * i, Chunk{});
        } else {
            store_row(scratch, lane, params.cache.bf16, plain_row(params, at, token));
        }
    });
}

// Token 32 * row + lane at one tile place, unless a block holds it: from the window, or zeros from `end` on.
INNERQ_HD inline void read_unquantised(const DequantiseParams &params, TilePlace at, int64_t token, int64_t blocks,
                                       int64_t end) {
    const CacheParams &cache = params.cache;
    if (token >= params.tokens) return;
    const bool held = token < end;
    if (held && token >= cache.sink && token < cache.sink + kGroup * blocks) return;
    const uint16_t *row = window_row(cache, at.batch, at.part, at.head, slot_of(cache, token)) + kGroup * at.tile;
    INNERQ_UNROLL
    for (int i = 0; i < 4; ++i)
        store_chunk(plain_row(params, at, token) + 8 * i, held ? load_chunk(row + 8 * i) : Chunk{});
}

// 32 rows of output at one tile place: whatever of block `segment` and of tokens 32 segment .. + 31 is due.
INNERQ_HD inline void read_segment(const DequantiseParams &params, TilePlace at, int64_t segment, TileScratch &scratch,
                                   const Warp &each_lane) {
    const int64_t length = params.length_B[at.batch];
    const int64_t fresh = params.fresh_B != nullptr ? params.fresh_B[at.batch] : params.fresh;
    const int64_t blocks = blocks_with_room(params.cache, length + fresh);
    const int64_t end = length < params.tokens ? length : params.tokens;
    if (segment < blocks && params.cache.sink + kGroup * segment < end)
        read_block(params, at, segment, end, scratch, each_lane);
    each_lane([&](int lane) { read_unquantised(params, at, kGroup * segment + lane, blocks, end); });
}

}  // namespace innerq
