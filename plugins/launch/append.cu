// Append: one launch for up to 32 tokens; else plan, lambda, quantise, window, in stream order.
#include "innerq/append_bulk.cuh"
#include "innerq/append_fused.cuh"

#include "by_preset.h"
#include "launch.h"
#include "warps.cuh"

namespace innerq {
namespace {

struct LaunchStep {
    const AppendParams &params;
    void *stream;

    template <class Kind>
    innerq_status by() const {
        return for_each_tile("append", FusedAppend<Kind, 1, true>{WindowPlan(params), params}, 1, stream);
    }
};

struct LaunchAnyStep {
    const AppendParams &params;
    void *stream;

    template <class Kind>
    innerq_status by() const {
        constexpr int kRounds = kFusedAppendTokens / kTokensOfRound;
        return for_each_tile("append", FusedAppend<Kind, kRounds, false>{WindowPlan(params), params}, 1, stream);
    }
};

struct LaunchFlush {
    const BulkWork &work;
    int64_t blocks;
    void *stream;

    template <class Kind>
    innerq_status by() const {
        return for_each_tile("append: quantise", FlushBlocks<Kind>{work}, blocks, stream, Begin::kEarly);
    }
};

innerq_status launch_fused(const AppendParams &params, void *stream) {
    const CacheParams &cache = params.cache;
    const bool held = params.tokens <= kTokensOfRound && params.tokens <= cache.ring - kGroup;
    return held ? by_preset_of(cache, LaunchStep{params, stream}) : by_any(cache, LaunchAnyStep{params, stream});
}

}  // namespace

size_t append_workspace_bytes(const CacheParams &cache, int tokens) {
    if (tokens <= kFusedAppendTokens) return 0;
    const size_t channels = size_t(cache.batch) * cache.kv_heads * cache.head_dim;
    return step_bytes(cache) + channels * sizeof(float);
}

innerq_status launch_append(const AppendParams &params, void *workspace, void *stream) {
    if (params.tokens <= kFusedAppendTokens) return launch_fused(params, stream);
    const BulkWork work{WindowPlan(params), params, bulk_state(params.cache, workspace)};
    const int64_t blocks = (int64_t{params.tokens} + kGroup - 1) / kGroup;
    const int64_t slots = (int64_t{params.cache.window_slots} + kGroup - 1) / kGroup;
    const int64_t lambda_rows = (blocks + kBlocksPerLambdaRow - 1) / kBlocksPerLambdaRow;
    INNERQ_TRY(for_each_tile("append: plan", PlanAppend{work}, 1, stream));
    if (params.cache.learns_lambda)
        INNERQ_TRY(for_each_tile("append: lambda", FindLargest{work}, lambda_rows, stream, Begin::kEarly));
    INNERQ_TRY(by_preset_of(params.cache, LaunchFlush{work, blocks, stream}));
    return for_each_tile("append: window", FillWindow{work}, slots, stream, Begin::kEarly);
}

}  // namespace innerq
