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

// Up to 32 tokens: at most one block is due, and lambda is fixed by its keys alone. All memory that the unit needs is
// asked for in its first step; nothing is written before all of it has been read.
struct FusedAppend : Work {
    INNERQ_HD void operator()(TilePlace at, int, TileScratch &scratch, const Team &team) const {
        PerThread<ChunkSet> fresh;
        const SequenceStep step = plan_lengths(params, at.batch);
        const bool fixes = at.part == kKeys && fixes_lambda(cache(), step);
        team([&](int thread) {
            load_fresh(at, thread, fresh[thread]);
            if (step.due == 0) return;
            const bool reads = at.part == kKeys && cache().learns_lambda && !fixes && thread < 32;
            const uint16_t lambda = reads ? *lambda_place(cache(), at, thread) : uint16_t{0};
            load_tokens(params, step, at, step.first_block, scratch, thread);
            if (reads) keep_lambda(scratch, thread, lambda);
        });
        const bool fits = has_records(cache(), at.batch, step.first_block, step.due, 0, 1);
        const int flags = step.flags | (fits ? 0 : kFlagCapacity);
        if (flags != 0) {
            team([&](int thread) { raise_flags(cache(), thread == 0 ? flags : 0); });
            return;
        }
        team([&](int thread) { store_fresh(step, at, thread, fresh[thread]); });
        if (step.due == 0) return;
        if (fixes) fix_lambda(at, scratch, team);
        uint8_t *record = record_of(cache(), at.batch, at.head, step.first_block);
        TileFlush{cache(), at, parts_of(cache(), record, at.part), scratch}.run(team);
    }

    INNERQ_HD void load_fresh(TilePlace at, int thread, ChunkSet &chunks) const {
        INNERQ_UNROLL
        for (int k = 0; k < kChunkShare; ++k) {
            const ChunkPlace place = chunk_of(thread, k);
            if (place.token < params.tokens)
                chunks.of[k] = load_chunk(new_row(params, at, place.token) + place.channel);
        }
    }

    INNERQ_HD void store_fresh(const SequenceStep &step, TilePlace at, int thread, const ChunkSet &chunks) const {
        INNERQ_UNROLL
        for (int k = 0; k < kChunkShare; ++k) {
            const ChunkPlace place = chunk_of(thread, k);
            if (place.token >= step.fresh) continue;
            uint16_t *row = slot_row(cache(), at, slot_of(cache(), step.past + place.token));
            store_chunk(row + place.channel, chunks.of[k]);
        }
    }

    INNERQ_HD void fix_lambda(TilePlace at, TileScratch &scratch, const Team &team) const {
        team([&](int thread) { find_largest(scratch, cache().bf16, thread); });
        team([&](int thread) {
            if (thread >= 32) return;
            const uint16_t lambda = lambda_of(high_of(scratch, thread));
            *lambda_place(cache(), at, thread) = lambda;
            keep_lambda(scratch, thread, lambda);
        });
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
    INNERQ_HD void operator()(TilePlace at, int, TileScratch &scratch, const Team &team) const {
        if (at.part != kKeys) return;
        team([&](int thread) {
            if (thread < 32) state.largest_of(cache(), at)[thread] = 0.0f;
        });
        if (at.head != 0 || at.tile != 0) return;
        SequenceStep step = plan_lengths(params, at.batch);
        team([&](int thread) {
            const bool fits = has_records(cache(), at.batch, step.first_block, step.due, thread, kTeam);
            scratch.low[thread] = fits ? 0.0f : 1.0f;
        });
        team([&](int thread) {
            if (thread != 0) return;
            for (const float missing : scratch.low) step.flags |= missing != 0.0f ? kFlagCapacity : 0;
            if (step.flags != 0) step.fresh = step.due = 0;
            raise_flags(cache(), step.flags);
            state.step_B[at.batch] = step;
        });
    }
};

// Largest magnitude of every key channel over kBlocksPerLambdaRow blocks.
struct FindLargest : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int row, TileScratch &scratch, const Team &team) const {
        const SequenceStep &step = state.step_B[at.batch];
        const int first = row * kBlocksPerLambdaRow;
        if (at.part != kKeys || !fixes_lambda(cache(), step) || first >= step.due) return;
        const int end = first + kBlocksPerLambdaRow < step.due ? first + kBlocksPerLambdaRow : step.due;
        PerThread<float> largest;
        team([&](int thread) { largest[thread] = 0.0f; });
        for (int block = first; block < end; ++block) {
            team([&](int thread) { load_tokens(params, step, at, block, scratch, thread); });
            team([&](int thread) {
                find_largest(scratch, cache().bf16, thread);
                largest[thread] = fmaxf(largest[thread], scratch.high[thread]);
            });
        }
        team([&](int thread) { raise_largest(state.largest_of(cache(), at) + group_of(thread), largest[thread]); });
    }
};

struct FlushBlocks : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int row, TileScratch &scratch, const Team &team) const {
        const SequenceStep &step = state.step_B[at.batch];
        if (row >= step.due) return;
        const int block = step.first_block + row;
        const bool fixes = fixes_lambda(cache(), step);
        team([&](int thread) {
            const bool scales = at.part == kKeys && cache().learns_lambda && thread < 32;
            uint16_t lambda = 0;
            if (scales && fixes) lambda = lambda_of(state.largest_of(cache(), at)[thread]);
            if (scales && !fixes) lambda = *lambda_place(cache(), at, thread);
            load_tokens(params, step, at, block, scratch, thread);
            if (!scales) return;
            if (fixes && row == 0) *lambda_place(cache(), at, thread) = lambda;
            keep_lambda(scratch, thread, lambda);
        });
        uint8_t *record = record_of(cache(), at.batch, at.head, block);
        TileFlush{cache(), at, parts_of(cache(), record, at.part), scratch}.run(team);
    }
};

// Every window slot pulls its newest token, if that is a new one.
struct FillWindow : Work {
    BulkState state;
    INNERQ_HD void operator()(TilePlace at, int row, TileScratch &, const Team &team) const {
        const SequenceStep &step = state.step_B[at.batch];
        team([&](int thread) {
            for (int k = 0; k < kChunkShare; ++k) {
                const ChunkPlace place = chunk_of(thread, k);
                const int slot = kGroup * row + place.token;
                if (slot >= cache().window_slots) continue;
                const int token = newest_token(cache(), slot, step.past + step.fresh);
                if (token < step.past || step.fresh == 0) continue;
                store_chunk(slot_row(cache(), at, slot) + place.channel,
                            load_chunk(new_row(params, at, token - step.past) + place.channel));
            }
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
