// Reading a cache back: dequantised into plain keys and values in token order.
#pragma once

#include "innerq/fragment.cuh"
#include "innerq/kinds.cuh"

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

// An output row from a channel of the tile on.
INNERQ_HD inline uint16_t *plain_row(const DequantiseParams &params, TilePlace at, int64_t token, int channel) {
    const int64_t head = static_cast<int64_t>(at.batch) * params.cache.kv_heads + at.head;
    uint16_t *out = at.part == kKeys ? params.key : params.value;
    return out + (head * params.tokens + token) * params.cache.head_dim + kGroup * at.tile + channel;
}

// A lane's activations of one tile of a record; keys come out multiplied by lambda.
template <class Kind, int Part>
INNERQ_HD inline void dequantise_tile(const CacheParams &cache, uint8_t *record, TilePlace at, int lane,
                                      Activations &to) {
    const TileParts parts = Kind::template parts_of<Part>(cache, record);
    const bool multiplies = Part == kKeys && cache.learns_lambda;
    CodePairs pairs;
    load_codes(parts, at.tile, lane, pairs);
    Chunk lambda{};
    if (multiplies) lambda = load_chunk(lambda_place(cache, at) + run_channel<kKeys>(lane));
    INNERQ_UNROLL
    for (int i = 0; i < kGroups * kOfGroup; ++i) {
        const int sub = i / kOfGroup, k = i % kOfGroup;
        const int code = static_cast<int>(pairs.of[sub][k / 2] >> (16 * (k % 2)) & 0xffffu);
        const GroupScale scale = load_scale(parts, Part, at.tile, slot_group(Part, lane, sub));
        float x = dequantise(code, scale, parts.bits, parts.mode);
        if (multiplies) x = ieee::multiply(x, from_half(number_of(lambda, k)));
        set_activation<Part>(to, sub, k, to_activation(x, Kind::is_bf16(cache)));
    }
}

// Tokens of block `block` below `end`; zeros where it has no page.
template <class Kind, int Part>
INNERQ_HD inline void read_block(const DequantiseParams &params, TilePlace at, int64_t block, int64_t end, int lane) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    Activations tile{};
    if (record != nullptr) dequantise_tile<Kind, Part>(params.cache, record, at, lane, tile);
    INNERQ_UNROLL
    for (int i = 0; i < kRuns<Part>; ++i) {
        const int64_t token = params.cache.sink + kGroup * block + run_token<Part>(lane, i);
        if (token < end) store_run<Part>(plain_row(params, at, token, run_channel<Part>(lane)), tile, i);
    }
}

// One chunk of a token, unless a block holds it: from the window, or zeros from `end` on.
INNERQ_HD inline void read_unquantised(const DequantiseParams &params, TilePlace at, int64_t token, int channel,
                                       int64_t blocks, int64_t end) {
    const CacheParams &cache = params.cache;
    if (token >= params.tokens) return;
    Chunk chunk{};
    if (token < end) {
        if (token >= cache.sink && token < cache.sink + kGroup * blocks) return;
        chunk = load_chunk(slot_row(cache, at, slot_of(cache, token)) + channel);
    }
    store_chunk(plain_row(params, at, token, channel), chunk);
}

// 32 rows of output at one tile place: whatever of block `segment` and of tokens 32 segment .. + 31 is due.
template <class Kind, int Part>
INNERQ_HD inline void read_segment(const DequantiseParams &params, TilePlace at, int64_t segment, int lane) {
    const int64_t length = params.length_B[at.batch];
    const int64_t fresh = params.fresh_B != nullptr ? params.fresh_B[at.batch] : params.fresh;
    const int64_t blocks = blocks_with_room(params.cache, length + fresh);
    const int64_t end = length < params.tokens ? length : params.tokens;
    if (segment < blocks && params.cache.sink + kGroup * segment < end)
        read_block<Kind, Part>(params, at, segment, end, lane);
    for (int i = lane / 4; i < kGroup; i += kLanes / 4)
        read_unquantised(params, at, kGroup * segment + i, 8 * (lane % 4), blocks, end);
}

}  // namespace innerq
