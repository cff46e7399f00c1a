// Append: new tokens into the window, due blocks into records (SPEC sections 2, 4, 5, 7).
//
// The unit of work is one tile place (sequence, head, keys or values, 32 channels). It touches nothing that another
// unit touches, so within one launch a unit may read the window slots that its own new tokens overwrite afterwards.
#pragma once

#include "innerq/tile.cuh"

namespace innerq {

enum Flag { kFlagCapacity = 1, kFlagLength = 2 };  // innerq_flag

// What the call does to one sequence.
struct SequenceStep {
    int64_t past;         // tokens held before
    int64_t first_block;  // first block that is due
    int fresh, due;       // new tokens, due blocks: both 0 where the append is dropped
    int flags;            // innerq_flag: why it was dropped
};

// Whether blocks first .. end - 1 have room and pages; looks at pages `share`, `share` + `shares`, ... of them.
INNERQ_HD inline bool has_records(const CacheParams &cache, int batch, int64_t first, int64_t end, int share,
                                  int shares) {
    if (end > cache.capacity_blocks) return false;
    if (cache.block_table == nullptr || first == end) return true;
    for (int64_t page = first / cache.page_blocks + share; page <= (end - 1) / cache.page_blocks; page += shares)
        if (record_of(cache, batch, 0, page * cache.page_blocks) == nullptr) return false;
    return true;
}

// The plan of one sequence, judged by a share of its pages (0, 1: all of them).
INNERQ_HD inline SequenceStep plan_sequence(const AppendParams &params, int batch, int share, int shares) {
    const CacheParams &cache = params.cache;
    const int64_t past = params.past_length_B[batch];
    const int fresh = params.new_length_B != nullptr ? params.new_length_B[batch] : params.tokens;
    if (past < 0 || fresh < 0 || fresh > params.tokens) return {0, 0, 0, 0, kFlagLength};
    const int64_t first = blocks_of(cache, past), end = blocks_of(cache, past + fresh);
    if (!has_records(cache, batch, first, end, share, shares)) return {past, first, 0, 0, kFlagCapacity};
    return {past, first, fresh, static_cast<int>(end - first), 0};
}

// The first blocks of a sequence are the ones that fix lambda.
INNERQ_HD inline bool fixes_lambda(const CacheParams &cache, const SequenceStep &step) {
    return cache.learns_lambda && step.first_block == 0 && step.due > 0;
}

// The 32 channels of `token`, wherever it is before the window is overwritten.
INNERQ_HD inline const uint16_t *source_row(const AppendParams &params, const SequenceStep &step, TilePlace at,
                                            int64_t token) {
    const TokenParams &fresh = at.part == kKeys ? params.key : params.value;
    const uint16_t *row = token >= step.past
                              ? token_row(fresh, at.batch, at.head, token - step.past)
                              : window_row(params.cache, at.batch, at.part, at.head, slot_of(params.cache, token));
    return row + kGroup * at.tile;
}

// Reads the tokens of one block into the cells, a token per lane.
INNERQ_HD inline void load_tokens(const AppendParams &params, const SequenceStep &step, TilePlace at, int64_t block,
                                  TileScratch &scratch, int lane) {
    const uint16_t *row = source_row(params, step, at, params.cache.sink + kGroup * block + lane);
    Chunk chunks[4];
    INNERQ_UNROLL
    for (int i = 0; i < 4; ++i) chunks[i] = load_chunk(row + 8 * i);
    INNERQ_UNROLL
    for (int c = 0; c < kGroup; ++c)
        scratch.cells[lane][c] = float_bits(from_activation(number_of(chunks[c / 8], c % 8), params.cache.bf16));
}

// Largest magnitude of a channel over the 32 tokens in the cells.
INNERQ_HD inline float largest_of_channel(const TileScratch &scratch, int channel) {
    float largest = 0.0f;
    INNERQ_UNROLL
    for (int r = 0; r < kGroup; ++r) largest = fmaxf(largest, fabsf(bits_float(scratch.cells[r][channel])));
    return largest;
}

// Quantises the lane's group of the cells in place and stores its scale.
INNERQ_HD inline void quantise_lane(const TileParts &parts, TilePlace at, bool scaled, TileScratch &scratch, int lane) {
    float x[kGroup];
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) x[i] = bits_float(group_cell(scratch, at.part, lane, i));
    if (scaled) {
        INNERQ_UNROLL
        for (int i = 0; i < kGroup; ++i) x[i] = ieee::divide(x[i], scratch.lambda[i]);
    }
    uint32_t stored[kGroup];
    store_scale(parts, at.part, at.tile, lane, quantise_group(x, parts.bits, parts.mode, stored));
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) group_cell(scratch, at.part, lane, i) = stored[i];
}

// Moves one due block of one tile place into its record. `largest_D`: per channel largest magnitude over all keys that
// fix lambda, or NULL where these are the keys of this block alone.
INNERQ_HD inline void flush_tile(const AppendParams &params, const SequenceStep &step, TilePlace at, int64_t block,
                                 const float *largest_D, TileScratch &scratch, const Warp &each_lane) {
    const CacheParams &cache = params.cache;
    const TileParts parts = parts_of(cache, record_of(cache, at.batch, at.head, block), at.part);
    each_lane([&](int lane) { load_tokens(params, step, at, block, scratch, lane); });
    const bool scaled = at.part == kKeys && cache.learns_lambda;
    if (scaled) {
        uint16_t *lambda = lambda_row(cache, at.batch, at.head) + kGroup * at.tile;
        each_lane([&](int lane) {
            if (fixes_lambda(cache, step)) {
                const float largest =
                    largest_D != nullptr ? largest_D[kGroup * at.tile + lane] : largest_of_channel(scratch, lane);
                scratch.lambda[lane] = from_half(lambda_of(largest));
                if (block == step.first_block) lambda[lane] = lambda_of(largest);
            } else {
                scratch.lambda[lane] = from_half(lambda[lane]);
            }
        });
    }
    each_lane([&](int lane) { quantise_lane(parts, at, scaled, scratch, lane); });
    each_lane([&](int lane) { store_codes(parts, scratch, at.part, at.tile, lane); });
}

// Writes the new tokens of one tile place into the window; params.tokens <= ring, so no slot is written twice.
INNERQ_HD inline void push_tokens(const AppendParams &params, const SequenceStep &step, TilePlace at, int lane) {
    for (int i = lane; i < 4 * step.fresh; i += 32) {
        const int64_t token = step.past + i / 4;
        const int offset = kGroup * at.tile + 8 * (i % 4);
        const int64_t slot = slot_of(params.cache, token);
        const TokenParams &fresh = at.part == kKeys ? params.key : params.value;
        store_chunk(window_row(params.cache, at.batch, at.part, at.head, slot) + offset,
                    load_chunk(token_row(fresh, at.batch, at.head, i / 4) + offset));
    }
}

// Newest token below `end` that belongs to a window slot, or -1.
INNERQ_HD inline int64_t newest_token(const CacheParams &cache, int64_t slot, int64_t end) {
    if (slot < cache.sink) return slot < end ? slot : -1;
    if (slot >= end) return -1;
    return slot + (end - 1 - slot) / cache.ring * cache.ring;
}

}  // namespace innerq
