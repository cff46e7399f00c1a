// The two layouts of the same codes, packed <-> logical, exactly (SPEC section 7).
#pragma once

#include "innerq/fragment.cuh"

namespace innerq {

// The logical layout: innerq_logical.
struct LogicalParams {
    CacheParams cache;
    int8_t *key_codes, *value_codes;
    uint16_t *key_scales, *key_zeros, *value_scales, *value_zeros;
    const int32_t *length_B;  // may be NULL: all blocks
};

// Words of codes of a lane's run (fragment.cuh), a byte each.
template <int Part>
constexpr int kWordsOfRun = Part == kKeys ? 2 : 1;

// First code of row `token` of a block, and index of a group's scale, in the logical tensors.
INNERQ_HD inline int8_t *logical_codes(const LogicalParams &params, TilePlace at, int64_t block, int token) {
    const int64_t head = static_cast<int64_t>(at.batch) * params.cache.kv_heads + at.head;
    const int64_t row = (head * params.cache.capacity_blocks + block) * kGroup + token;
    return (at.part == kKeys ? params.key_codes : params.value_codes) + row * params.cache.head_dim + kGroup * at.tile;
}

INNERQ_HD inline int64_t logical_scale(const LogicalParams &params, TilePlace at, int64_t block, int group) {
    const int64_t head = static_cast<int64_t>(at.batch) * params.cache.kv_heads + at.head;
    const int64_t first = (head * params.cache.capacity_blocks + block) * params.cache.head_dim;
    return first + (at.part == kKeys ? group * (params.cache.head_dim / kGroup) + at.tile : kGroup * at.tile + group);
}

// Group and number of byte `b` of word `w` of a lane's run: a run is a group of keys, one number of all groups of values.
struct CodePlace {
    int group, number;
};
template <int Part>
INNERQ_HD constexpr CodePlace code_place(int run, int w, int b) {
    return Part == kKeys ? CodePlace{run, 4 * w + b} : CodePlace{b, run};
}

template <int Part>
INNERQ_HD inline uint32_t row_bytes(const CodePairs &pairs, int run, int w) {
    uint32_t bytes = 0;
    INNERQ_UNROLL
    for (int b = 0; b < 4; ++b) {
        const CodePlace at = code_place<Part>(run, w, b);
        bytes |= (pairs.of[at.group][at.number / 2] >> (16 * (at.number % 2)) & 0xffu) << (8 * b);
    }
    return bytes;
}

// The inverse, into pairs that were 0.
template <int Part>
INNERQ_HD inline void set_row_bytes(CodePairs &pairs, int run, int w, uint32_t bytes) {
    INNERQ_UNROLL
    for (int b = 0; b < 4; ++b) {
        const CodePlace at = code_place<Part>(run, w, b);
        pairs.of[at.group][at.number / 2] |= (bytes >> (8 * b) & 0xffu) << (16 * (at.number % 2));
    }
}

constexpr uint32_t kSigns = 0x80808080u;

// Byte by byte, without carries into the neighbour.
INNERQ_HD inline uint32_t add_bytes(uint32_t a, uint32_t b) {
    return ((a & ~kSigns) + (b & ~kSigns)) ^ ((a ^ b) & kSigns);
}

// Moves scale and zero of the lane's group.
template <class Move>
INNERQ_HD inline void move_scale(const LogicalParams &params, const TileParts &parts, TilePlace at, int64_t block,
                                 int group, const Move &move) {
    const int64_t there = logical_scale(params, at, block, group);
    const int here = group_scale_index(parts, at.part, at.tile, group);
    move(parts.scales[here], (at.part == kKeys ? params.key_scales : params.value_scales)[there]);
    if (parts.zeros != nullptr)
        move(parts.zeros[here], (at.part == kKeys ? params.key_zeros : params.value_zeros)[there]);
}

// One tile, packed -> logical.
template <int Part>
INNERQ_HD inline void tile_to_logical(const LogicalParams &params, TilePlace at, int64_t block, int lane) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    if (record == nullptr) return;
    const TileParts parts = parts_of(params.cache, record, Part);
    const uint32_t minus_half = (256u - (1u << (parts.bits - 1))) * 0x01010101u;
    CodePairs pairs;
    load_codes(parts, at.tile, lane, pairs);
    move_scale(params, parts, at, block, lane, [](uint16_t here, uint16_t &there) { there = here; });
    INNERQ_UNROLL
    for (int run = 0; run < kRuns<Part>; ++run) {
        int8_t *row = logical_codes(params, at, block, run_token<Part>(lane, run)) + run_channel<Part>(lane);
        INNERQ_UNROLL
        for (int w = 0; w < kWordsOfRun<Part>; ++w)
            store_as(row + 4 * w, add_bytes(row_bytes<Part>(pairs, run, w), minus_half));
    }
}

// One tile, logical -> packed. Codes out of range lose their high bits and harm no neighbour.
template <int Part>
INNERQ_HD inline void tile_from_logical(const LogicalParams &params, TilePlace at, int64_t block, int lane) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    if (record == nullptr) return;
    const TileParts parts = parts_of(params.cache, record, Part);
    const uint32_t half = (1u << (parts.bits - 1)) * 0x01010101u, mask = ((1u << parts.bits) - 1u) * 0x01010101u;
    CodePairs pairs{};
    INNERQ_UNROLL
    for (int run = 0; run < kRuns<Part>; ++run) {
        const int8_t *row = logical_codes(params, at, block, run_token<Part>(lane, run)) + run_channel<Part>(lane);
        INNERQ_UNROLL
        for (int w = 0; w < kWordsOfRun<Part>; ++w)
            set_row_bytes<Part>(pairs, run, w, add_bytes(load_as<uint32_t>(row + 4 * w), half) & mask);
    }
    move_scale(params, parts, at, block, lane, [](uint16_t &here, uint16_t there) { here = there; });
    store_codes(parts, at.tile, lane, pairs);
}

}  // namespace innerq
