// Append: new tokens into the window, due blocks into records (SPEC sections 2, 4, 5, 7).
//
// The unit of work is one tile place (sequence, head, keys or values, 32 channels). It touches nothing that another
// unit touches, so within one launch a unit may overwrite window slots as soon as it has read them.
#pragma once

#include "innerq/flush.cuh"

namespace innerq {

enum Flag { kFlagCapacity = 1, kFlagLength = 2 };  // innerq_flag
constexpr int kMaxLength = 1 << 30;

// What the call does to one sequence.
struct SequenceStep {
    int past, fresh;       // tokens held before, new tokens
    int first_block, due;  // first block that is due, due blocks
    int flags;             // innerq_flag: why nothing may be written, or 0
};

// Whether `count` blocks from `first` have room and pages; looks at pages `share`, `share` + `shares`, ... of them.
INNERQ_HD inline bool has_records(const CacheParams &cache, int batch, int first, int count, int share, int shares) {
    if (first + count > cache.capacity_blocks) return false;
    if (cache.block_table == nullptr || count == 0) return true;
    const int end = (first + count - 1) / cache.page_blocks;
    for (int page = first / cache.page_blocks + share; page <= end; page += shares)
        if (record_of(cache, batch, 0, int64_t{page} * cache.page_blocks) == nullptr) return false;
    return true;
}

// The plan of one sequence, its pages not yet looked at.
INNERQ_HD inline SequenceStep plan_lengths(const AppendParams &params, int batch) {
    const int past = params.past_length_B[batch];
    const int fresh = params.new_length_B != nullptr ? params.new_length_B[batch] : params.tokens;
    if (past < 0 || fresh < 0 || fresh > params.tokens || past > kMaxLength - fresh) return {0, 0, 0, 0, kFlagLength};
    const int first = static_cast<int>(blocks_of(params.cache, past));
    return {past, fresh, first, static_cast<int>(blocks_of(params.cache, past + fresh)) - first, 0};
}

// The first blocks of a sequence are the ones that fix lambda.
INNERQ_HD inline bool fixes_lambda(const CacheParams &cache, const SequenceStep &step) {
    return cache.learns_lambda && step.first_block == 0 && step.due > 0;
}

INNERQ_HD inline const uint16_t *new_row(const AppendParams &params, TilePlace at, int token) {
    return token_row(at.part == kKeys ? params.key : params.value, at.batch, at.head, token) + kGroup * at.tile;
}

INNERQ_HD inline uint16_t *slot_row(const CacheParams &cache, TilePlace at, int slot) {
    return window_row(cache, at.batch, at.part, at.head, slot) + kGroup * at.tile;
}

// The thread's chunks of a block's tokens, from wherever they are before the window is overwritten.
INNERQ_HD inline void load_tokens(const AppendParams &params, const SequenceStep &step, TilePlace at, int block,
                                  TileScratch &scratch, int thread) {
    ChunkSet chunks;
    INNERQ_UNROLL
    for (int k = 0; k < kChunkShare; ++k) {
        const ChunkPlace place = chunk_of(thread, k);
        const int token = params.cache.sink + kGroup * block + place.token;
        const uint16_t *row = token >= step.past ? new_row(params, at, token - step.past)
                                                 : slot_row(params.cache, at, slot_of(params.cache, token));
        chunks.of[k] = load_chunk(row + place.channel);
    }
    INNERQ_UNROLL
    for (int k = 0; k < kChunkShare; ++k) store_chunk(scratch_chunk(scratch, chunk_of(thread, k)), chunks.of[k]);
}

// Newest token below `end` that belongs to a window slot, or -1.
INNERQ_HD inline int newest_token(const CacheParams &cache, int slot, int end) {
    if (slot >= end) return -1;
    if (slot < cache.sink) return slot;
    return slot +
           static_cast<int>(static_cast<uint32_t>(end - 1 - slot) / static_cast<uint32_t>(cache.ring)) * cache.ring;
}

}  // namespace innerq
