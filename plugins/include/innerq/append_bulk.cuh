// The append of a prompt or a chunk, more than 32 tokens: plan, lambda, quantise, window, a launch each.
#pragma once

#include "innerq/append.cuh"
#include "innerq/kinds.cuh"

namespace innerq {

constexpr int kBlocksPerLambdaRow = 8;

// Workspace of a bulk append.
struct BulkState {
    SequenceStep *step_B;
    float *largest_BHkvD;  // per channel, over the keys that fix lambda

    INNERQ_HD float *largest_of(const CacheParams &cache, TilePlace at) const {
        const int64_t head = static_cast<int64_t>(at.batch) * cache.kv_heads + at.head;
        return largest_BHkvD + head * cache.head_dim + kGroup * at.tile;
    }
};

inline size_t step_bytes(const CacheParams &cache) { return (cache.batch * sizeof(SequenceStep) + 15) / 16 * 16; }

inline BulkState bulk_state(const CacheParams &cache, void *workspace) {
    char *bytes = static_cast<char *>(workspace);
    return {reinterpret_cast<SequenceStep *>(bytes), reinterpret_cast<float *>(bytes + step_bytes(cache))};
}

struct BulkWork {
    WindowPlan plan;
    AppendParams params;
    BulkState state;

    INNERQ_HD const CacheParams &cache() const { return params.cache; }

    template <int Part>
    INNERQ_HD void load_rows(TilePlace at, const SequenceStep &step, int block, int lane, Activations &to) const {
        const WindowRows rows(plan, at, run_channel<Part>(lane));
        load_block<Part>(plan, at, rows, cache().sink + kGroup * block, step.past, block, lane, to);
    }
};

// Decides what happens to each sequence, once, and clears the maxima.
struct PlanAppend : BulkWork {
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
struct FindLargest : BulkWork {
    template <int Part>
    INNERQ_HD void run(TilePlace at, int row, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        const int first = row * kBlocksPerLambdaRow;
        if (Part != kKeys || !fixes_lambda(cache(), step) || first >= step.due) return;
        const int end = first + kBlocksPerLambdaRow < step.due ? first + kBlocksPerLambdaRow : step.due;
        PerLane<Numbers<kOfGroup>> found = {};
        for (int block = first; block < end; ++block)
            warp([&](int lane) {
                Activations rows;
                LaneTile keys;
                load_rows<Part>(at, step, block, lane, rows);
                read_tile<Part>(rows, cache().bf16, keys);
                raise_by(keys, found[lane]);
            });
        PerLane<float> largest = largest_of(warp, found);
        warp([&](int lane) { raise_largest(state.largest_of(cache(), at) + lane, largest[lane]); });
    }
};

// Quantises block `row` of those that are due.
template <class Kind>
struct FlushBlocks : BulkWork {
    template <int Part>
    INNERQ_HD void run(TilePlace at, int row, const Warp &warp) const {
        const SequenceStep &step = state.step_B[at.batch];
        if (row >= step.due) return;
        const bool bf16 = Kind::is_bf16(cache()), divides = Part == kKeys && cache().learns_lambda;
        PerLane<LaneTile> tiles;
        PerLane<LaneLambda> lambda;
        PerLane<Activations> rows;
        warp([&](int lane) { load_rows<Part>(at, step, step.first_block + row, lane, rows[lane]); });
        if (divides) find_lambda(at, step, row == 0, warp, lambda);
        warp([&](int lane) {
            read_tile<Part>(rows[lane], bf16, tiles[lane]);
            if (divides) normalise(tiles[lane], lambda[lane], bf16);
        });
        uint8_t *record = record_of(cache(), at.batch, at.head, step.first_block + row);
        const TileParts parts = Kind::template parts_of<Part>(cache(), record);
        TileFlush<Part, Kind::kChooses>{parts, at.tile, warp, tiles, divides}.run();
    }

    INNERQ_HD void find_lambda(TilePlace at, const SequenceStep &step, bool writes, const Warp &warp,
                               PerLane<LaneLambda> &lambda) const {
        uint16_t *place = lambda_place(cache(), at);
        if (fixes_lambda(cache(), step)) {
            PerLane<float> largest;
            warp([&](int lane) { largest[lane] = state.largest_of(cache(), at)[lane]; });
            make_lambda(warp, largest, place, writes, lambda);
        } else {
            warp([&](int lane) { read_lambda(load_chunk(place + run_channel<kKeys>(lane)), lambda[lane]); });
        }
    }
};

// Every window slot pulls its newest token, if that is a new one.
struct FillWindow : BulkWork {
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

}  // namespace innerq
