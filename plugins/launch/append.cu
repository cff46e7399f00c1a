// Append: one launch for up to 32 tokens; else plan, lambda, quantise, window, in stream order.
#include "innerq/append_bulk.cuh"
#include "innerq/append_fused.cuh"

#include "launch.h"
#include "warps.cuh"

namespace innerq {
namespace {

template <class Launch>
innerq_status by_any(const CacheParams &cache, const Launch &launch) {
    const bool chooses = cache.key_mode == kHybrid || cache.value_mode == kHybrid;
    return chooses ? launch.template by<Any<true>>() : launch.template by<Any<false>>();
}

// launch.by<Kind>() with the first of the kinds that is compiled for the cache, else with one for all.
template <class Launch, class Kind, class... Kinds>
innerq_status by_kind(const CacheParams &cache, const Launch &launch) {
    if (Kind::is(cache)) return launch.template by<Kind>();
    if constexpr (sizeof...(Kinds) != 0) {
        return by_kind<Launch, Kinds...>(cache, launch);
    } else {
        return by_any(cache, launch);
    }
}

template <bool kBf16, class Launch>
innerq_status by_preset(const CacheParams &cache, const Launch &launch) {
    constexpr int kFull = kSymmetricFull, kPlain = kSymmetric;
    return by_kind<Launch, Compiled<3, kFull, 3, kFull, kBf16>,  // balanced
                   Compiled<3, kFull, 2, kFull, kBf16>,          // compact
                   Compiled<4, kFull, 4, kFull, kBf16>,          // quality
                   Compiled<3, kPlain, 3, kPlain, kBf16>,        // base
                   Compiled<3, kPlain, 2, kPlain, kBf16>,        // small
                   Compiled<3, kPlain, 2, kHybrid, kBf16>>(cache, launch);
}

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

template <class Launch>
innerq_status by_preset_of(const CacheParams &cache, const Launch &launch) {
    return cache.bf16 ? by_preset<true>(cache, launch) : by_preset<false>(cache, launch);
}

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
