// The append of a decode step, of up to 32 tokens a sequence: one warp per tile place, one round of loads, one of stores.
//
// What a step costs is its chain: lengths -> rows of the due block -> extremes -> scales -> codes. So everything that does
// not hang on the lengths is asked for or worked out while they are on their way, a tile never leaves its warp's
// registers, and kernels are compiled for the bits and modes of presets: their code is a straight line, and what runs
// once waits for every line of it.
#pragma once

#include "innerq/append.cuh"
#include "innerq/kinds.cuh"

namespace innerq {

constexpr int kTokensOfRound = 8;  // new tokens that a warp moves with one load of every lane

// At most one block is due, and lambda is fixed by its keys alone. kHeld: a due block never has new tokens.
template <class Kind, int kRounds, bool kHeld>
struct FusedAppend {
    WindowPlan plan;  // first: it is needed first
    AppendParams params;

    struct Lane {
        Chunk fresh[kRounds];  // new tokens lane / 4, + 8, ...: channels 8 (lane % 4) ..
        Chunk lambda;
        WindowRows rows;
        Activations block;
    };

    INNERQ_HD const CacheParams &cache() const { return params.cache; }

    template <int Part>
    INNERQ_HD void run(TilePlace at, int, const Warp &warp) const {
        const int past = plan.past_length_B[at.batch], fresh = plan.fresh_of(at.batch);
        PerLane<Lane> lanes;
        warp([&](int lane) { lanes[lane].rows = WindowRows(plan, at, run_channel<Part>(lane)); });
        const int block = plan.blocks_of(past);
        const bool due = plan.blocks_of(static_cast<int>(static_cast<uint32_t>(past) + fresh)) != block;
        const int refused = flags_of(plan, past, fresh);
        if (due && (kHeld || refused == 0))  // held rows can be read whatever the lengths: they are the ring's
            warp([&](int lane) { load_due<Part>(at, past, block, lane, lanes[lane]); });
        warp.meet();  // what follows is not asked for before the rows
        warp([&](int lane) { load_rest<Part>(at, lane, lanes[lane]); });
        uint8_t *record = due && refused == 0 ? record_of(cache(), at.batch, at.head, block) : nullptr;
        const int flags = refused != 0 ? refused : due && record == nullptr ? kFlagCapacity : 0;
        if (INNERQ_RARELY(flags != 0)) {
            warp([&](int lane) { raise_flags(cache(), lane == 0 ? flags : 0); });
            return;
        }
        warp.meet();  // nothing is written before all rows have been read
        warp([&](int lane) { store_fresh(at, past, fresh, lane, lanes[lane].fresh); });
        if (due) flush<Part>(at, warp, block == 0, record, lanes);
    }

    template <int Part>
    INNERQ_HD void flush(TilePlace at, const Warp &warp, bool is_first, uint8_t *record, PerLane<Lane> &lanes) const {
        const bool bf16 = Kind::is_bf16(cache()), divides = Part == kKeys && plan.key_norm != nullptr;
        PerLane<LaneTile> tiles;
        PerLane<LaneLambda> lambda;
        if (divides) warp([&](int lane) { read_lambda(lanes[lane].lambda, lambda[lane]); });
        warp([&](int lane) { read_tile<Part>(lanes[lane].block, bf16, tiles[lane]); });
        if (divides) {
            if (INNERQ_RARELY(is_first)) {
                PerLane<Numbers<kOfGroup>> found;
                warp([&](int lane) { found[lane] = {}, raise_by(tiles[lane], found[lane]); });
                PerLane<float> largest = largest_of(warp, found);
                make_lambda(warp, largest, lambda_place(cache(), at), true, lambda);
            }
            warp([&](int lane) { normalise(tiles[lane], lambda[lane], bf16); });
        }
        const TileParts parts = Kind::template parts_of<Part>(cache(), record);
        TileFlush<Part, Kind::kChooses>{parts, at.tile, warp, tiles, divides}.run();
    }

    template <int Part>
    INNERQ_HD void load_due(TilePlace at, int past, int block, int lane, Lane &to) const {
        if constexpr (kHeld) {
            load_held<Part>(plan, to.rows, block, lane, to.block);
        } else {
            load_block<Part>(plan, at, to.rows, cache().sink + kGroup * block, past, block, lane, to.block);
        }
    }

    // New tokens and lambda.
    template <int Part>
    INNERQ_HD void load_rest(TilePlace at, int lane, Lane &to) const {
        const TokenParams &tokens = Part == kKeys ? plan.key : plan.value;
        const uint16_t *from = new_row(tokens, at, lane / 4) + 8 * (lane % 4);
        INNERQ_UNROLL
        for (int k = 0; k < kRounds; ++k)
            if (kTokensOfRound * k + lane / 4 < plan.tokens)
                to.fresh[k] = load_chunk(from + kTokensOfRound * k * tokens.stride_token);
        if (Part == kKeys && plan.key_norm != nullptr) {
            const uint32_t head = at.batch * plan.kv_heads + at.head;
            const uint64_t row = static_cast<uint64_t>(head) * (plan.row_bytes / 2);
            to.lambda = load_chunk(plan.key_norm + row + kGroup * at.tile + run_channel<Part>(lane));
        }
    }

    INNERQ_HD void store_fresh(TilePlace at, int past, int count, int lane, const Chunk (&chunks)[kRounds]) const {
        const WindowRows rows(plan, at, 8 * (lane % 4));
        const int place = plan.place_of(past - cache().sink);
        INNERQ_UNROLL
        for (int k = 0; k < kRounds; ++k) {
            const int token = kTokensOfRound * k + lane / 4;
            if (token < count) store_chunk(rows.row_after(place, token), chunks[k]);
        }
    }
};

}  // namespace innerq
