// The two layouts of the same codes, packed <-> logical, exactly (SPEC section 7).
#pragma once

#include "innerq/record.cuh"

namespace innerq {

// The logical layout: innerq_logical.
struct LogicalParams {
    CacheParams cache;
    int8_t *key_codes, *value_codes;
    uint16_t *key_scales, *key_zeros, *value_scales, *value_zeros;
    const int32_t *length_B;  // may be NULL: all blocks
};

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

INNERQ_HD inline uint8_t &code_byte(TileScratch &scratch, int part, int token, int channel) {
    return part == kKeys ? group_code(scratch, part, token, channel) : group_code(scratch, part, channel, token);
}

// One tile, packed -> logical: a thread moves eight codes of a token at a time.
INNERQ_HD inline void tile_to_logical(const LogicalParams &params, TilePlace at, int64_t block, TileScratch &scratch,
                                      const Team &team) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    if (record == nullptr) return;
    const TileParts parts = parts_of(params.cache, record, at.part);
    const int half = 1 << (parts.bits - 1);
    team([&](int thread) {
        if (thread >= 32) return;
        load_codes(parts, scratch, at.part, at.tile, thread);
        const GroupScale scale = load_scale(parts, at.part, at.tile, thread);
        const int64_t index = logical_scale(params, at, block, thread);
        (at.part == kKeys ? params.key_scales : params.value_scales)[index] = scale.scale;
        if (parts.zeros != nullptr) (at.part == kKeys ? params.key_zeros : params.value_zeros)[index] = scale.zero;
    });
    team([&](int thread) {
        for (int k = 0; k < kChunkShare; ++k) {
            const ChunkPlace place = chunk_of(thread, k);
            int8_t *codes = logical_codes(params, at, block, place.token) + place.channel;
            for (int i = 0; i < 8; ++i)
                codes[i] = static_cast<int8_t>(code_byte(scratch, at.part, place.token, place.channel + i) - half);
        }
    });
}

// One tile, logical -> packed. Codes out of range lose their high bits and harm no neighbour.
INNERQ_HD inline void tile_from_logical(const LogicalParams &params, TilePlace at, int64_t block, TileScratch &scratch,
                                        const Team &team) {
    uint8_t *record = record_of(params.cache, at.batch, at.head, block);
    if (record == nullptr) return;
    const TileParts parts = parts_of(params.cache, record, at.part);
    const int half = 1 << (parts.bits - 1);
    team([&](int thread) {
        for (int k = 0; k < kChunkShare; ++k) {
            const ChunkPlace place = chunk_of(thread, k);
            const int8_t *codes = logical_codes(params, at, block, place.token) + place.channel;
            for (int i = 0; i < 8; ++i)
                code_byte(scratch, at.part, place.token, place.channel + i) =
                    static_cast<uint8_t>((codes[i] + half) & (2 * half - 1));
        }
    });
    team([&](int thread) {
        if (thread >= 32) return;
        const int64_t index = logical_scale(params, at, block, thread);
        const uint16_t *zeros = at.part == kKeys ? params.key_zeros : params.value_zeros;
        store_scale(parts, at.part, at.tile, thread,
                    {(at.part == kKeys ? params.key_scales : params.value_scales)[index],
                     parts.zeros != nullptr ? zeros[index] : static_cast<uint16_t>(0)});
        store_codes(parts, scratch, at.part, at.tile, thread);
    });
}

}  // namespace innerq
