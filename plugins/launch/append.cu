// Append: one launch for up to 32 tokens; else plan, lambda, quantise, window, in stream order.
#include "innerq/append.cuh"

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

// Workspace of a bulk append.
struct BulkState {
    SequenceStep *step_B;
    float *largest_BHkvD;  // per channel, over the keys that fix lambda

    INNERQ_HD float *largest_of(const CacheParams &cache, TilePlace at) const {
        return largest_BHkvD + (static_cast<int64_t>(at.batch) * cache.kv_heads + at.head) * cache.head_dim;
    }
};

BulkState bulk_state(const CacheParams &cache, void *workspace) {
    SequenceStep *steps = static_cast<SequenceStep *>(workspace);
    return {steps, reinterpret_cast<float *>(steps + cache.batch)};
}

struct Work {
    AppendParams params;
    INNERQ_HD const CacheParams &cache() const { return params.cache; }
};

// Up to kFusedAppendTokens tokens: at most one block is due, and lambda is fixed by its keys alone.
struct FusedAppend : Work {
    INNERQ_HD void operator()(TilePlace at, int64_t, TileScratch &scratch, const Warp &warp) const {
        const SequenceStep step = plan_sequence(params, at.batch, 0, 1);
        if (at.head == 0 && at.part == 0 && at.tile == 0)
            warp([&](int lane) { raise_flags(params.cache, lane == 0 ? step.flags : 0); });
        if (step.due > 0) flush_tile(params, step, at, step.first_block, nullptr, scratch, warp);
        warp([&](int lane) { push_tokens(params, step, at, lane); });
    }
};

// Decides what happens to each sequence, once, and clears the maxima.
struct PlanAppend : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int64_t, TileScratch &scratch, const Warp &warp) const {
        warp([&](int lane) { state.largest_of(params.cache, at)[kGroup * at.tile + lane] = 0.0f; });
        if (at.head != 0 || at.part != 0 || at.tile != 0) return;
        warp([&](int lane) { scratch.cells[lane][0] = plan_sequence(params, at.batch, lane, 32).flags; });
        warp([&](int lane) {
            if (lane != 0) return;
            uint32_t flags = 0;
            for (int i = 0; i < 32; ++i) flags |= scratch.cells[i][0];
            SequenceStep step = plan_sequence(params, at.batch, 0, INT32_MAX);
            if (flags != 0) step.fresh = step.due = 0;
            raise_flags(params.cache, static_cast<int>(flags));
            state.step_B[at.batch] = step;
        });
    }
};

// Largest magnitude of every key channel over kBlocksPerLambdaRow blocks.
struct FindLargest : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int64_t row, TileScratch &scratch, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        const int64_t first = row * kBlocksPerLambdaRow;
        if (at.part != kKeys || !fixes_lambda(params.cache, step) || first >= step.due) return;
        const int64_t end = first + kBlocksPerLambdaRow < step.due ? first + kBlocksPerLambdaRow : step.due;
        warp([&](int lane) { scratch.lambda[lane] = 0.0f; });
        for (int64_t block = first; block < end; ++block) {
            warp([&](int lane) { load_tokens(params, step, at, block, scratch, lane); });
            warp([&](int lane) {
                scratch.lambda[lane] = fmaxf(scratch.lambda[lane], largest_of_channel(scratch, lane));
            });
        }
        float *largest = state.largest_of(params.cache, at) + kGroup * at.tile;
        warp([&](int lane) { raise_largest(largest + lane, scratch.lambda[lane]); });
    }
};

struct FlushBlocks : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int64_t row, TileScratch &scratch, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        if (row >= step.due) return;
        flush_tile(params, step, at, step.first_block + row, state.largest_of(params.cache, at), scratch, warp);
    }
};

// Every window slot pulls its newest token, if that is a new one.
struct FillWindow : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int64_t row, TileScratch &, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        warp([&](int lane) {
            const int64_t slot = kGroup * row + lane;
            if (slot >= params.cache.window_slots) return;
            const int64_t token = newest_token(params.cache, slot, step.past + step.fresh);
            if (token < step.past || step.fresh == 0) return;
            const TokenParams &fresh = at.part == kKeys ? params.key : params.value;
            const uint16_t *from = token_row(fresh, at.batch, at.head, token - step.past) + kGroup * at.tile;
            uint16_t *to = window_row(params.cache, at.batch, at.part, at.head, slot) + kGroup * at.tile;
            INNERQ_UNROLL
            for (int i = 0; i < 4; ++i) store_chunk(to + 8 * i, load_chunk(from + 8 * i));
        });
    }
};

}  // namespace

size_t append_workspace_bytes(const CacheParams &cache, int tokens) {
    if (tokens <= kFusedAppendTokens) return 0;
    const size_t heads = size_t(cache.batch) * cache.kv_heads;
    return cache.batch * sizeof(SequenceStep) + heads * cache.head_dim * sizeof(float);
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
