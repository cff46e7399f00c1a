// Append: one launch for up to 32 tokens; else plan, lambda, quantise, window, in stream order.
#include "innerq/append.cuh"

#include <climits>

#include "launch.h"
#include "units.cuh"

namespace innerq {
namespace {

constexpr int kBlocksPerLambdaRow = 8;

INNERQ_HD void raise_flags(const CacheParams &cache, int flags) {
    if (flags == 0 || cache.flags == nullptr) return;
#ifdef __CUDA_ARCH__
    atomicOr(cache.flags, flags);
#else
    *cache.flags |= flags;
#endif
}

// Magnitudes are not negative, so their bits are ordered like the numbers.
INNERQ_HD void raise_largest(float *largest, float value) {
#ifdef __CUDA_ARCH__
    atomicMax(reinterpret_cast<unsigned *>(largest), float_bits(value));
#else
    if (value > *largest) *largest = value;
#endif
}

struct Work {
    AppendParams params;
    INNERQ_HD const CacheParams &cache() const { return params.cache; }
};

// Up to kFusedAppendTokens tokens: at most one block is due, and lambda is fixed by its keys alone. All memory that the
// unit will need is asked for in its first step; nothing is written before all of it has been read.
struct FusedAppend : Work {
    INNERQ_HD void operator()(TilePlace at, int, TileScratch &scratch, const Warp &warp) const {
        struct NewChunks {
            Chunk of[kFusedAppendTokens / 8];
        };
        PerLane<NewChunks> fresh;
        const SequenceStep step = plan_lengths(params, at.batch);
        const bool has_lambda = at.part == kKeys && cache().learns_lambda;
        warp([&](int lane) {
            load_fresh(at, lane, fresh[lane].of);
            if (step.due == 0) return;
            load_token(params, step, at, step.first_block, scratch, lane);
            if (has_lambda && !fixes_lambda(cache(), step)) set_lambda(cache(), at, false, 0, false, scratch, lane);
        });
        const int flags =
            has_records(cache(), at.batch, step.first_block, step.due, 0, 1) ? step.flags : step.flags | kFlagCapacity;
        if (flags != 0) {
            warp([&](int lane) { raise_flags(cache(), lane == 0 ? flags : 0); });
            return;
        }
        warp([&](int lane) { store_fresh(step, at, lane, fresh[lane].of); });
        if (step.due > 0) flush(step, at, has_lambda, scratch, warp);
    }

    // New tokens of the place: chunk i of the 4 x S is lane i mod 32's.
    INNERQ_HD void load_fresh(TilePlace at, int lane, Chunk (&chunks)[kFusedAppendTokens / 8]) const {
        INNERQ_UNROLL
        for (int k = 0; k < kFusedAppendTokens / 8; ++k) {
            const int i = lane + 32 * k;
            if (i < 4 * params.tokens) chunks[k] = load_chunk(new_row(params, at, i / 4) + 8 * (i % 4));
        }
    }

    INNERQ_HD void store_fresh(const SequenceStep &step, TilePlace at, int lane,
                               const Chunk (&chunks)[kFusedAppendTokens / 8]) const {
        INNERQ_UNROLL
        for (int k = 0; k < kFusedAppendTokens / 8; ++k) {
            const int i = lane + 32 * k;
            if (i < 4 * step.fresh)
                store_chunk(slot_row(cache(), at, slot_of(cache(), step.past + i / 4)) + 8 * (i % 4), chunks[k]);
        }
    }

    INNERQ_HD void flush(const SequenceStep &step, TilePlace at, bool has_lambda, TileScratch &scratch,
                         const Warp &warp) const {
        if (has_lambda && fixes_lambda(cache(), step))
            warp([&](int lane) {
                set_lambda(cache(), at, true, largest_of_channel(scratch, lane, cache().bf16), true, scratch, lane);
            });
        const TileParts parts = parts_of(cache(), record_of(cache(), at.batch, at.head, step.first_block), at.part);
        warp([&](int lane) { quantise_lane(parts, at, cache(), scratch, lane); });
        warp([&](int lane) { store_codes(parts, scratch, at.part, at.tile, lane); });
    }
};

// Workspace of a bulk append.
struct BulkState {
    SequenceStep *step_B;
    float *largest_BHkvD;  // per channel, over the keys that fix lambda

    INNERQ_HD float *largest_of(const CacheParams &cache, TilePlace at) const {
        const int64_t head = static_cast<int64_t>(at.batch) * cache.kv_heads + at.head;
        return largest_BHkvD + head * cache.head_dim + kGroup * at.tile;
    }
};

size_t step_bytes(const CacheParams &cache) { return (cache.batch * sizeof(SequenceStep) + 15) / 16 * 16; }

BulkState bulk_state(const CacheParams &cache, void *workspace) {
    char *bytes = static_cast<char *>(workspace);
    return {reinterpret_cast<SequenceStep *>(bytes), reinterpret_cast<float *>(bytes + step_bytes(cache))};
}

// Decides what happens to each sequence, once, and clears the maxima.
struct PlanAppend : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int, TileScratch &scratch, const Warp &warp) const {
        if (at.part != kKeys) return;
        warp([&](int lane) { state.largest_of(cache(), at)[lane] = 0.0f; });
        if (at.head != 0 || at.tile != 0) return;
        SequenceStep step = plan_lengths(params, at.batch);
        warp([&](int lane) {
            scratch.codes[lane][0] = has_records(cache(), at.batch, step.first_block, step.due, lane, 32);
        });
        warp([&](int lane) {
            if (lane != 0) return;
            for (int i = 0; i < 32; ++i) step.flags |= scratch.codes[i][0] ? 0 : kFlagCapacity;
            if (step.flags != 0) step.fresh = step.due = 0;
            raise_flags(cache(), step.flags);
            state.step_B[at.batch] = step;
        });
    }
};

// Largest magnitude of every key channel over kBlocksPerLambdaRow blocks.
struct FindLargest : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int row, TileScratch &scratch, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        const int first = row * kBlocksPerLambdaRow;
        if (at.part != kKeys || !fixes_lambda(cache(), step) || first >= step.due) return;
        const int end = first + kBlocksPerLambdaRow < step.due ? first + kBlocksPerLambdaRow : step.due;
        PerLane<float> largest;
        warp([&](int lane) { largest[lane] = 0.0f; });
        for (int block = first; block < end; ++block) {
            warp([&](int lane) { load_token(params, step, at, block, scratch, lane); });
            warp([&](int lane) {
                largest[lane] = fmaxf(largest[lane], largest_of_channel(scratch, lane, cache().bf16));
            });
        }
        warp([&](int lane) { raise_largest(state.largest_of(cache(), at) + lane, largest[lane]); });
    }
};

struct FlushBlocks : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int row, TileScratch &scratch, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        if (row >= step.due) return;
        const int block = step.first_block + row;
        const TileParts parts = parts_of(cache(), record_of(cache(), at.batch, at.head, block), at.part);
        warp([&](int lane) {
            load_token(params, step, at, block, scratch, lane);
            if (at.part == kKeys && cache().learns_lambda)
                set_lambda(cache(), at, fixes_lambda(cache(), step), state.largest_of(cache(), at)[lane],
                           fixes_lambda(cache(), step) && row == 0, scratch, lane);
        });
        warp([&](int lane) { quantise_lane(parts, at, cache(), scratch, lane); });
        warp([&](int lane) { store_codes(parts, scratch, at.part, at.tile, lane); });
    }
};

// Every window slot pulls its newest token, if that is a new one.
struct FillWindow : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int row, TileScratch &, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        warp([&](int lane) {
            const int slot = kGroup * row + lane;
            if (slot >= cache().window_slots) return;
            const int token = newest_token(cache(), slot, step.past + step.fresh);
            if (token < step.past || step.fresh == 0) return;
            const uint16_t *from = new_row(params, at, token - step.past);
            uint16_t *to = slot_row(cache(), at, slot);
            INNERQ_UNROLL
            for (int i = 0; i < 4; ++i) store_chunk(to + 8 * i, load_chunk(from + 8 * i));
        });
    }
};

}  // namespace

size_t append_workspace_bytes(const CacheParams &cache, int tokens) {
    if (tokens <= kFusedAppendTokens) return 0;
    const size_t channels = size_t(cache.batch) * cache.kv_heads * cache.head_dim;
    return step_bytes(cache) + channels * sizeof(float);
}

innerq_status launch_append(const AppendParams &params, void *workspace, void *stream) {
    if (params.tokens <= kFusedAppendTokens) return for_each_place("append", FusedAppend{{params}}, 1, stream);
    const BulkState state = bulk_state(params.cache, workspace);
    const int64_t blocks = (int64_t{params.tokens} + kGroup - 1) / kGroup;
    const int64_t slots = (int64_t{params.cache.window_slots} + kGroup - 1) / kGroup;
    const int64_t lambda_rows = (blocks + kBlocksPerLambdaRow - 1) / kBlocksPerLambdaRow;
    INNERQ_TRY(for_each_place("append: plan", PlanAppend{{params}, state}, 1, stream));
    if (params.cache.learns_lambda)
        INNERQ_TRY(for_each_place("append: lambda", FindLargest{{params}, state}, lambda_rows, stream));
    INNERQ_TRY(for_each_place("append: quantise", FlushBlocks{{params}, state}, blocks, stream));
    return for_each_place("append: window", FillWindow{{params}, state}, slots, stream);
}

}  // namespace innerq
