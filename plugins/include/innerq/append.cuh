// Append: new tokens into the window, due blocks into records (SPEC sections 2, 4, 5, 7).
//
// The unit of work is one tile place (sequence, head, keys or values, 32 channels), a warp's. It touches nothing that
// another unit touches, so within one launch a unit may overwrite window slots as soon as it has read them.
#pragma once

#include "innerq/flush.cuh"
#include "innerq/window.cuh"

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

// Why a sequence may not be written: innerq_flag, or 0.
INNERQ_HD inline int flags_of(const WindowPlan &plan, int past, int fresh) {
    const bool valid = past >= 0 && fresh >= 0 && fresh <= plan.tokens && past <= kMaxLength - fresh;
    return valid ? 0 : kFlagLength;
}

// The plan of one sequence, its pages not yet looked at.
INNERQ_HD inline SequenceStep plan_sequence(const WindowPlan &plan, int batch) {
    const int past = plan.past_length_B[batch], fresh = plan.fresh_of(batch);
    const int flags = flags_of(plan, past, fresh), first = plan.blocks_of(past);
    if (flags != 0) return {0, 0, 0, 0, flags};
    return {past, fresh, first, plan.blocks_of(past + fresh) - first, 0};
}

// The first blocks of a sequence are the ones that fix lambda.
INNERQ_HD inline bool fixes_lambda(const CacheParams &cache, const SequenceStep &step) {
    return cache.learns_lambda && step.first_block == 0 && step.due > 0;
}

INNERQ_HD inline const uint16_t *new_row(const TokenParams &tokens, TilePlace at, int token) {
    return token_row(tokens, at.batch, at.head, token) + kGroup * at.tile;
}

// The lane's activations of a block that the window holds; `rows` from the lane's first channel.
template <int Part>
INNERQ_HD inline void load_held(const WindowPlan &plan, const WindowRows &rows, int block, int lane, Activations &to) {
    const int first = kGroup * block, place = first - plan.places.divide(first) * plan.ring();
    INNERQ_UNROLL
    for (int i = 0; i < kRuns<Part>; ++i) load_run<Part>(to, i, rows.row_behind(place, run_token<Part>(lane, i)));
}

// The same from wherever its tokens are before the window is overwritten: from `past` on they are new.
template <int Part>
INNERQ_HD inline void load_block(const WindowPlan &plan, TilePlace at, const WindowRows &rows, int first, int past,
                                 int block, int lane, Activations &to) {
    if (first + kGroup <= past) return load_held<Part>(plan, rows, block, lane, to);
    const int place = plan.place_of(kGroup * block);
    INNERQ_UNROLL
    for (int i = 0; i < kRuns<Part>; ++i) {
        const int token = run_token<Part>(lane, i), fresh = first + token - past;
        const TokenParams &tokens = Part == kKeys ? plan.key : plan.value;
        load_run<Part>(
            to, i, fresh < 0 ? rows.row_behind(place, token) : new_row(tokens, at, fresh) + run_channel<Part>(lane));
    }
}

// Sets bits of the cache's flag word.
INNERQ_HD inline void raise_flags(const CacheParams &cache, int flags) {
    if (flags == 0 || cache.flags == nullptr) return;
#ifdef __CUDA_ARCH__
    atomicOr(cache.flags, flags);
#else
    *cache.flags |= flags;
#endif
}

// Magnitudes are not negative, so their bits are ordered like the numbers.
INNERQ_HD inline void raise_largest(float *largest, float value) {
#ifdef __CUDA_ARCH__
    atomicMax(reinterpret_cast<unsigned *>(largest), float_bits(value));
#else
    if (value > *largest) *largest = value;
#endif
}

// Newest token below `end` that belongs to a window slot, or -1.
INNERQ_HD inline int newest_token(const CacheParams &cache, int slot, int end) {
    if (slot >= end) return -1;
    if (slot < cache.sink) return slot;
    return slot +
           static_cast<int>(static_cast<uint32_t>(end - 1 - slot) / static_cast<uint32_t>(cache.ring)) * cache.ring;
}

}  // namespace innerq
