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

// One chunk of an output row.
INNERQ_HD inline uint16_t *plain_chunk(const DequantiseParams &params, TilePlace at, int64_t token, int channel) {
    const int64_t head = static_cast<int64_t>(at.batch) * params.cache.kv_heads + at.head;
    uint16_t *out = at.part == kKeys ? params.key : params.value;
    return out + (head * params.tokens + token) * params.cache.head_dim + kGroup * at.tile + channel;
}

// Codes and lambdas of one tile of a record into scratch.
INNERQ_HD inline void fetch(const CacheParams &cache, const TileParts &parts, TilePlace at, TileScratch &scratch,
                            int thread) {
    if (thread >= 32) return;
    load_codes(parts, scratch, at.part, at.tile, thread);
    if (at.part == kKeys && cache.learns_lambda)
        scratch.lambda[thread] = from_half(lambda_row(cache, at.batch, at.head)[kGroup * at.tile + thread]);
}

// The fp32 values of the thread's share of its group, after fetch; keys come out multiplied by lambda.
INNERQ_HD inline void dequantise_share(const CacheParams &cache, const TileParts &parts, TilePlace at,
                                       TileScratch &scratch, int thread, float (&x)[kShare]) {
    const int group = group_of(thread);
    const GroupScale scale = load_scale(parts, at.part, at.tile, group);
    INNERQ_UNROLL
    for (int k = 0; k < kShare; ++k) {
        const int i = element_of(thread, k);
        x[k] = dequantise(group_code(scratch, at.part, group, i), scale, parts.bits, parts.mode);
        if (at.part == kKeys && cache.learns_lambda) x[k] = ieee::multiply(x[k], scratch.lambda[i]);
    }
}

// Activations of one tile of a record into scratch.
INNERQ_HD inline void dequantise_tile(const CacheParams &cache, uint8_t *record, TilePlace at, TileScratch &scratch,
                                      const Team &team) {
    const TileParts parts = parts_of(cache, record, at.part);
    team([&](int thread) { fetch(cache, parts, at, scratch, thread); });
    team([&](int thread) {
        float x[kShare];
        dequantise_share(cache, parts, at, scratch, thread, x);
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k)
            group_number(scratch, at.part, group_of(thread), element_of(thread, k)) = to_activation(x[k], cache.bf16);
    });
}

// Tokens of block `block` below `end`; zeros where it has no page.
INNERQ_HD inline void read_block(const DequantiseParams &params, TilePlace at, int64_t block, int64_t end,
                                 TileScratch &scratch, const Team &team) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    if (record != nullptr) dequantise_tile(params.cache, record, at, scratch, team);
    team([&](int thread) {
        for (int k = 0; k < kChunkShare; ++k) {
            const ChunkPlace place = chunk_of(thread, k);
            const int64_t token = params.cache.sink + kGroup * block + place.token;
            if (token < end)
                store_chunk(plain_chunk(params, at, token, place.channel),
                            record != nullptr ? load_chunk(scratch_chunk(scratch, place)) : Chunk{});
        }
    });
}

// One chunk of a token, unless a block holds it: from the window, or zeros from `end` on.
INNERQ_HD inline void read_unquantised(const DequantiseParams &params, TilePlace at, int64_t token, int channel,
                                       int64_t blocks, int64_t end) {
    const CacheParams &cache = params.cache;
    if (token >= params.tokens) return;
    Chunk chunk{};
    if (token < end) {
        if (token >= cache.sink && token < cache.sink + kGroup * blocks) return;
        const uint16_t *row = window_row(cache, at.batch, at.part, at.head, slot_of(cache, token));
        chunk = load_chunk(row + kGroup * at.tile + channel);
    }
    store_chunk(plain_chunk(params, at, token, channel), chunk);
}

// 32 rows of output at one tile place: whatever of block `segment` and of tokens 32 segment .. + 31 is due.
INNERQ_HD inline void read_segment(const DequantiseParams &params, TilePlace at, int64_t segment, TileScratch &scratch,
                                   const Team &team) {
    const int64_t length = params.length_B[at.batch];
    const int64_t fresh = params.fresh_B != nullptr ? params.fresh_B[at.batch] : params.fresh;
    const int64_t blocks = blocks_with_room(params.cache, length + fresh);
    const int64_t end = length < params.tokens ? length : params.tokens;
    if (segment < blocks && params.cache.sink + kGroup * segment < end)
        read_block(params, at, segment, end, scratch, team);
    team([&](int thread) {
        for (int k = 0; k < kChunkShare; ++k) {
            const ChunkPlace place = chunk_of(thread, k);
            read_unquantised(params, at, kGroup * segment + place.token, place.channel, blocks, end);
        }
    });
}

}  // namespace innerq
