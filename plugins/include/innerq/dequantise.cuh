// Reading a cache back: dequantised into plain keys and values in token order.
#pragma once

#include "innerq/record.cuh"

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

// The fp32 values of a lane's group whose codes are in scratch; keys come out multiplied by lambda.
INNERQ_HD inline void dequantise_lane(const CacheParams &cache, const TileParts &parts, TilePlace at,
                                      TileScratch &scratch, int lane, float (&x)[kGroup]) {
    const GroupScale scale = load_scale(parts, at.part, at.tile, lane);
    const uint8_t *codes = code_bytes(scratch, lane);
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i)
        x[i] = dequantise(at.part == kKeys ? codes[i] : codes[code_place(kValues, i)], scale, parts.bits, parts.mode);
    if (at.part != kKeys || !cache.learns_lambda) return;
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) x[i] = ieee::multiply(x[i], scratch.lambda[i]);
}

// Fetches what dequantise_lane needs of one tile of a record.
INNERQ_HD inline void fetch_lane(const CacheParams &cache, const TileParts &parts, TilePlace at, TileScratch &scratch,
                                 int lane) {
    load_codes(parts, scratch, at.part, at.tile, lane);
    if (at.part == kKeys && cache.learns_lambda)
        scratch.lambda[lane] = from_half(lambda_row(cache, at.batch, at.head)[kGroup * at.tile + lane]);
}

// Activations of one tile of a record into scratch.
INNERQ_HD inline void dequantise_tile(const CacheParams &cache, uint8_t *record, TilePlace at, TileScratch &scratch,
                                      const Warp &each_lane) {
    const TileParts parts = parts_of(cache, record, at.part);
    each_lane([&](int lane) { fetch_lane(cache, parts, at, scratch, lane); });
    each_lane([&](int lane) {
        float x[kGroup];
        dequantise_lane(cache, parts, at, scratch, lane, x);
        INNERQ_UNROLL
        for (int i = 0; i < kGroup; ++i)
            (at.part == kKeys ? activation_row(scratch, lane)[i] : activation_row(scratch, i)[lane]) =
                to_activation(x[i], cache.bf16);
    });
}

INNERQ_HD inline void store_zeros(uint16_t *to) {
    for (int i = 0; i < 4; ++i) store_chunk(to + 8 * i, Chunk{});
}

// Tokens of block `block` below `end`; zeros where it has no page.
INNERQ_HD inline void read_block(const DequantiseParams &params, TilePlace at, int64_t block, int64_t end,
                                 TileScratch &scratch, const Warp &each_lane) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    if (record != nullptr) dequantise_tile(params.cache, record, at, scratch, each_lane);
    each_lane([&](int lane) {
        const int64_t token = params.cache.sink + kGroup * block + lane;
        if (token >= end) return;
        uint16_t *to = plain_row(params, at, token);
        record != nullptr ? store_row(scratch, lane, to) : store_zeros(to);
    });
}

// One token, unless a block holds it: from the window, or zeros from `end` on.
INNERQ_HD inline void read_unquantised(const DequantiseParams &params, TilePlace at, int64_t token, int64_t blocks,
                                       int64_t end) {
    const CacheParams &cache = params.cache;
    if (token >= params.tokens) return;
    if (token >= end) return store_zeros(plain_row(params, at, token));
    if (token >= cache.sink && token < cache.sink + kGroup * blocks) return;
    const uint16_t *row = window_row(cache, at.batch, at.part, at.head, slot_of(cache, token)) + kGroup * at.tile;
    for (int i = 0; i < 4; ++i) store_chunk(plain_row(params, at, token) + 8 * i, load_chunk(row + 8 * i));
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
