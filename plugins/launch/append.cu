// Append: one launch for up to 32 tokens; else plan, lambda, quantise, window, in stream order.
#include "innerq/append_fused.cuh"

#include "launch.h"
#include "warps.cuh"

namespace innerq {
namespace {

constexpr int kBlocksPerLambdaRow = 8;

struct Work {
    AppendParams params;
    INNERQ_HD const CacheParams &cache() const { return params.cache; }
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
    WindowPlan plan;

    template <int Part>
    INNERQ_HD void run(TilePlace at, int, const Warp &warp) const {
        if (Part != kKeys) return;
        warp([&](int lane) { state.largest_of(cache(), at)[lane] = 0.0f; });
        if (at.head != 0 || at.tile != 0) return;
        SequenceStep step = plan_sequence(plan, at.batch);
        PerLane<bool> missing;
        warp([&](int lane) {
            missing[lane] = !has_records(cache(), at.batch, step.first_block, step.due, lane, kLanes);
        });
        if (any_lane(missing)) step.flags |= kFlagCapacity;
        if (step.flags != 0) step.fresh = step.due = 0;
        warp([&](int lane) {
            if (lane != 0) return;
            raise_flags(cache(), step.flags);
            state.step_B[at.batch] = step;
        });
    }
};

// Largest magnitude of every key channel over kBlocksPerLambdaRow blocks.
struct FindLargest : Work {
    BulkState state;
    WindowPlan plan;

    template <int Part>
    INNERQ_HD void run(TilePlace at, int row, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        const int first = row * kBlocksPerLambdaRow;
        if (Part != kKeys || !fixes_lambda(cache(), step) || first >= step.due) return;
        const int end = first + kBlocksPerLambdaRow < step.due ? first + kBlocksPerLambdaRow : step.due;
        for (int block = first; block < end; ++block) {
            PerLane<LaneTile> tiles;
            warp([&](int lane) {
                Activations block_of_lane;
                load_block<Part>(plan, at, WindowRows(plan, at, run_channel<Part>(lane)), cache().sink + kGroup * block,
                                 step.past, block, lane, block_of_lane);
                read_tile<Part>(block_of_lane, cache().bf16, tiles[lane]);
            });
            PerLane<Numbers<kOfGroup>> largest = largest_keys(warp, tiles);
            warp([&](int lane) {
                if (lane >= 4) return;
                for (int k = 0; k < kOfGroup; ++k)
                    raise_largest(state.largest_of(cache(), at) + run_channel<kKeys>(lane) + k, largest[lane].of[k]);
            });
        }
    }
};

template <class Kind>
struct FlushBlocks : Work {
    BulkState state;
    WindowPlan plan;

    template <int Part>
    INNERQ_HD void run(TilePlace at, int row, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        if (row >= step.due) return;
        const int block = step.first_block + row;
        PerLane<LaneTile> tiles;
        warp([&](int lane) {
            Activations block_of_lane;
            LaneLambda lambda;
            const bool divides = Part == kKeys && cache().learns_lambda;
            if (divides) read_lambda(lambda_of_lane(at, step, row, lane), lambda);
            load_block<Part>(plan, at, WindowRows(plan, at, run_channel<Part>(lane)), cache().sink + kGroup * block,
                             step.past, block, lane, block_of_lane);
            read_tile<Part>(block_of_lane, cache().bf16, tiles[lane]);
            if (divides) normalise(tiles[lane], lambda, cache().bf16);
        });
        const TileParts parts = parts_of(cache(), record_of(cache(), at.batch, at.head, block), Part);
        TileFlush<Part, Kind::kChooses>{parts, at.tile, warp, tiles, Part == kKeys && cache().learns_lambda}.run();
    }

    INNERQ_HD Chunk lambda_of_lane(TilePlace at, const SequenceStep &step, int row, int lane) const {
        const int channel = run_channel<kKeys>(lane);
        if (!fixes_lambda(cache(), step)) return load_chunk(lambda_place(cache(), at) + channel);
        const float *largest = state.largest_of(cache(), at) + channel;
        float of_lane[kOfGroup];
        INNERQ_UNROLL
        for (int k = 0; k < kOfGroup; ++k) of_lane[k] = largest[k];
        const Chunk lambda = lambda_of(of_lane);
        if (row == 0 && lane < 4) store_chunk(lambda_place(cache(), at) + channel, lambda);
        return lambda;
    }
};

// Every window slot pulls its newest token, if that is a new one.
struct FillWindow : Work {
    BulkState state;

    template <int Part>
    INNERQ_HD void run(TilePlace at, int row, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        if (step.fresh == 0) return;
        warp([&](int lane) {
            for (int i = lane / 4; i < kGroup; i += kLanes / 4) {
                const int slot = kGroup * row + i, channel = 8 * (lane % 4);
                if (slot >= cache().window_slots) continue;
                const int token = newest_token(cache(), slot, step.past + step.fresh);
                if (token < step.past) continue;
                const uint16_t *from = new_row(Part == kKeys ? params.key : params.value, at, token - step.past);
                store_chunk(slot_row(cache(), at, slot) + channel, load_chunk(from + channel));
            }
        });
    }
};

bool chooses(const CacheParams &cache) { return cache.key_mode == kHybrid || cache.value_mode == kHybrid; }

template <class Kind, int kRounds, bool kHeld>
innerq_status launch_fused_as(const AppendParams &params, void *stream) {
    return for_each_tile("append", FusedAppend<Kind, kRounds, kHeld>{WindowPlan(params), params}, 1, stream);
}

innerq_status launch_any(const AppendParams &params, void *stream) {
    constexpr int kRounds = kFusedAppendTokens / kTokensOfRound;
    return chooses(params.cache) ? launch_fused_as<Any<true>, kRounds, false>(params, stream)
                                 : launch_fused_as<Any<false>, kRounds, false>(params, stream);
}

// By the first of the kernels that is compiled for the cache's bits and modes, or by one for all.
template <class Kind, class... Kinds>
innerq_status launch_compiled(const AppendParams &params, void *stream) {
    if (Kind::is(params.cache)) return launch_fused_as<Kind, 1, true>(params, stream);
    if constexpr (sizeof...(Kinds) != 0) {
        return launch_compiled<Kinds...>(params, stream);
    } else {
        return launch_any(params, stream);
    }
}

template <bool kBf16>
innerq_status launch_preset(const AppendParams &params, void *stream) {
    constexpr int kFull = kSymmetricFull, kPlain = kSymmetric;
    return launch_compiled<Compiled<3, kFull, 3, kFull, kBf16>,    // balanced
                           Compiled<3, kFull, 2, kFull, kBf16>,    // compact
                           Compiled<4, kFull, 4, kFull, kBf16>,    // quality
                           Compiled<3, kPlain, 3, kPlain, kBf16>,  // base
                           Compiled<3, kPlain, 2, kPlain, kBf16>,  // small
                           Compiled<3, kPlain, 2, kHybrid, kBf16>>(params, stream);
}

innerq_status launch_fused(const AppendParams &params, void *stream) {
    const int recent = params.cache.ring - kGroup;
    if (params.tokens > kTokensOfRound || params.tokens > recent) return launch_any(params, stream);
    return params.cache.bf16 ? launch_preset<true>(params, stream) : launch_preset<false>(params, stream);
}

}  // namespace

size_t append_workspace_bytes(const CacheParams &cache, int tokens) {
    if (tokens <= kFusedAppendTokens) return 0;
    const size_t channels = size_t(cache.batch) * cache.kv_heads * cache.head_dim;
    return step_bytes(cache) + channels * sizeof(float);
}

innerq_status launch_append(const AppendParams &params, void *workspace, void *stream) {
    if (params.tokens <= kFusedAppendTokens) return launch_fused(params, stream);
    const BulkState state = bulk_state(params.cache, workspace);
    const WindowPlan plan(params);
    const int64_t blocks = (int64_t{params.tokens} + kGroup - 1) / kGroup;
    const int64_t slots = (int64_t{params.cache.window_slots} + kGroup - 1) / kGroup;
    const int64_t lambda_rows = (blocks + kBlocksPerLambdaRow - 1) / kBlocksPerLambdaRow;
    INNERQ_TRY(for_each_tile("append: plan", PlanAppend{{params}, state, plan}, 1, stream));
    if (params.cache.learns_lambda)
        INNERQ_TRY(for_each_tile("append: lambda", FindLargest{{params}, state, plan}, lambda_rows, stream));
    INNERQ_TRY(chooses(params.cache)
                   ? for_each_tile("append: quantise", FlushBlocks<Any<true>>{{params}, state, plan}, blocks, stream)
                   : for_each_tile("append: quantise", FlushBlocks<Any<false>>{{params}, state, plan}, blocks, stream));
    return for_each_tile("append: window", FillWindow{{params}, state}, slots, stream);
}

}  // namespace innerq
