// Decode attention over the packed cache, one launch: records, window and new tokens, split over warps and merged.
//
// One CTA per multiprocessor; every warp works alone on its share of the flat split (attend_plan.cuh) with its own ring
// (attend_ring.cuh), then partials are merged (attend_merge.cuh). No CTA barrier before that. Lengths are read on the
// device. Softmax in fp32, weights and queries as fp16 operands.
#pragma once

#include "attend_merge.cuh"
#include "attend_record.cuh"
#include "attend_ring.cuh"
#include "attend_window.cuh"

namespace innerq::attend {

inline constexpr int kMaxWarps = 8;

// Records that a warp works on at once: two where the registers hold them.
template <int kTiles, class KeyCodes, class ValueCodes>
inline constexpr int kStageRecords = kTiles <= 4 && KeyCodes::fixed && ValueCodes::fixed ? 2 : 1;

// Launch parameters, by value. KeyCodes and ValueCodes: FixedCodes or AnyCodes.
template <class KeyCodes, class ValueCodes>
struct Launch {
    AttendParams params;
    KeyCodes keys;
    ValueCodes values;
    int row_chunks;     // chunks of 8 query rows per KV head
    int stage_records;  // 1 or 2
    unsigned *arrivals;  // [B, Hkv, row_chunks], zero before and after
    float *partials;    // [kMaxParts, 2] partials
};

// Shared memory, in bytes, of a CTA of `warps` warps.
struct SharedPlan {
    int head_bytes, stage_bytes;
    INNERQ_HD constexpr int barriers() const { return 0; }
    INNERQ_HD constexpr int arrival() const { return kMaxWarps * kStages * 8; }
    INNERQ_HD constexpr int segments() const { return (arrival() + static_cast<int>(sizeof(Arrival)) + 15) / 16 * 16; }
    INNERQ_HD constexpr int weights() const { return segments() + 2 * kMaxWarps * static_cast<int>(sizeof(Segment)); }
    INNERQ_HD constexpr int heads() const { return weights() + 2 * kMaxWarps * kRows * 8; }
    INNERQ_HD constexpr int ring(int warps, int warp) const {
        return heads() + warps * head_bytes + warp * kStages * stage_bytes;
    }
    INNERQ_HD constexpr int bytes(int warps) const { return ring(warps, warps); }
};

// Units [from, to) of a segment, by one warp.
template <int kTiles, class KeyCodes, class ValueCodes>
__device__ __forceinline__ void attend_piece(const Launch<KeyCodes, ValueCodes> &launch, const RecordLayout &layout,
                                             const SegmentWalk &walk, int from, int to, Ring &ring, int lane,
                                             Softmax<kTiles> &state) {
    const AttendParams &p = launch.params;
    const Sequence &sequence = walk.sequence;
    const Segment &segment = walk.segment;
    if (segment.fresh == 0) return;
    const int end = sequence.blocks_before(to), per_stage = launch.stage_records;
    int block = sequence.blocks_before(from), fetched = block;
    RecordSource source(p.cache, segment.batch, segment.head, lane);
    const auto fetch = [&] {
        const int count = clamp_int(end - fetched, 0, per_stage);
        ring.fill(source, fetched, count);
        fetched += count;
    };
#pragma unroll 1
    for (int s = 0; s < kStages; ++s) fetch();

    const RowMap rows{p.query_heads / p.cache.kv_heads, p.tokens};
    const int first_row = segment.row_chunk * kRows;
    // Rows that do not exist repeat the last one; their results go nowhere.
    const int index = min(first_row + (lane >> 2), rows.group * segment.fresh - 1), token = rows.token_of(index);
    const int query_head = segment.head * rows.group + index - token * rows.group;
    const bool with_lambda = p.cache.learns_lambda && block < end;
    const RawQuery<kTiles> raw(token_row(p.query, segment.batch, query_head, token),
                               with_lambda ? lambda_row(p.cache, segment.batch, segment.head) : nullptr, p.cache.bf16,
                               lane & 3);
    const float log2_scale = p.scale * 1.4426950408889634f;
    const int last_chunk = sequence.chunks_before(to);
    int chunk = sequence.chunks_before(from);
    if (chunk < last_chunk) {
        const Window window(p.cache, p.key, p.value, sequence, segment.batch, segment.head);
        int limit[2];
#pragma unroll
        for (int e = 0; e < 2; ++e)
            limit[e] = sequence.sinks + sequence.tail + 1 + rows.token_of(first_row + 2 * (lane & 3) + e);
        const float unit = power_of_two(-kWindowExponent - unit_exponent(launch.values.bits()));
#pragma unroll 1
        for (; chunk < last_chunk; ++chunk) {
            WindowChunk<kTiles> tokens;
            tokens.load(window, chunk * kWindowTokens, lane);
            if (p.cache.bf16) tokens.convert();
            attend_window<kTiles>(tokens, raw, chunk * kWindowTokens, limit, log2_scale, unit, lane, state);
        }
    }
    if (block >= end) return;

    const Query<kTiles, KeyCodes> query(launch.keys, raw, log2_scale, lane);
    const bool partly = end == sequence.blocks && sequence.last_tokens() < kGroup;  // the last block
    while (block < end) {
        int missing;
        const char *stage = ring.wait(missing);
        const int count = min(per_stage, end - block);
        block += count;
        bool done = false;
        if constexpr (kStageRecords<kTiles, KeyCodes, ValueCodes> == 2) {
            done = count == 2 && missing == 0 && !(partly && block == end);
            if (done) attend_records<2>(launch.keys, launch.values, query, stage, layout, kGroup, lane, state);
        }
        if (!done) {
#pragma unroll 1
            for (int r = 0; r < count; ++r)
                if (!((missing >> r) & 1))
                    attend_records<1>(launch.keys, launch.values, query, stage + r * layout.bytes, layout,
                                      partly && block - count + r == end - 1 ? sequence.last_tokens() : kGroup, lane,
                                      state);
        }
        __syncwarp();
        fetch();
    }
}

// Adds up what the warps of this CTA left in shared memory, run by run of the same segment, and hands on.
template <int kTiles>
__device__ __forceinline__ void merge_warps(const Output &output, const Partials<kTiles> &partials, unsigned *arrivals,
                                            const Cuts &cuts, int row_chunks, int kv_heads, char *shared,
                                            const SharedPlan &plan, int warps) {
    const Segment *segments = reinterpret_cast<const Segment *>(shared + plan.segments());
    const float2 *weights = reinterpret_cast<const float2 *>(shared + plan.weights());
    Arrival *arrival = reinterpret_cast<Arrival *>(shared + plan.arrival());
    const int part = blockIdx.x, slots = 2 * warps;
    const int64_t begin = cuts.cut(part), end = cuts.cut(part + 1);
    const auto slot_out = [&](int slot) {
        const int at = slot % 2 ? plan.ring(warps, slot / 2) : plan.heads() + slot / 2 * plan.head_bytes;
        return reinterpret_cast<const float *>(shared + at);
    };
    for (int slot = 0; slot < slots;) {
        const Segment segment = segments[slot];
        int behind = slot + 1;
        if (segment.units > 0)
            while (behind < slots && (segments[behind].units == 0 || segments[behind].start == segment.start)) ++behind;
        const int first_slot = slot;
        slot = behind;
        if (segment.units == 0) continue;
        const bool whole = segment.start >= begin && segment.start + segment.units <= end;
        const int which = segment.start >= begin;
        constexpr int kQuads = 8 * kTiles;
        for (int v = threadIdx.x; v < kRows * kQuads; v += blockDim.x) {
            const int n = v / kQuads, quad = v % kQuads;
            bool seen;
            uint16_t *row = output.row(segment, n, seen);
            if (row == nullptr) continue;
            Sum4 total;
            for (int s = first_slot; s < behind; ++s)
                if (segments[s].units > 0)
                    total.add(*reinterpret_cast<const float4 *>(slot_out(s) + n * Slot8<kTiles>::kStride + 4 * quad),
                              weights[s * kRows + n]);
            if (whole) {
                output.store4(row, 4 * quad, total.out, total.sum, seen);
            } else {
                reinterpret_cast<float4 *>(partials.out(part, which))[v] = total.out;
                if (quad == 0) partials.weights(part, which)[n] = {total.maximum, total.sum};
            }
        }
        if (whole) continue;
        const int64_t counter =
            (static_cast<int64_t>(segment.batch) * kv_heads + segment.head) * row_chunks + segment.row_chunk;
        if (arrive(arrivals + counter, segment, cuts, arrival))
            merge_parts<kTiles>(output, segment, partials, arrival->first, arrival->last);
    }
}

template <int kHeadDim, class KeyCodes, class ValueCodes>
__global__ void __launch_bounds__(32 * kMaxWarps, 1)
    attend_kernel(const __grid_constant__ Launch<KeyCodes, ValueCodes> launch) {
    constexpr int kTiles = kHeadDim / 32;
    extern __shared__ __align__(128) char shared[];
    const AttendParams &p = launch.params;
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);  // in a uniform register
    const RecordLayout layout = record_layout(kHeadDim, launch.keys.bits(), launch.keys.zero() != kNoZero,
                                              launch.values.bits(), launch.values.zero() != kNoZero);
    const SharedPlan plan{Slot8<kTiles>::kBytes, launch.stage_records * layout.bytes};
    Ring ring(shared + plan.ring(warps, warp), reinterpret_cast<uint64_t *>(shared + plan.barriers()) + kStages * warp,
              plan.stage_bytes, layout.bytes, launch.row_chunks == 1, lane);
    Segment *segments = reinterpret_cast<Segment *>(shared + plan.segments()) + 2 * warp;
    if (lane < 2) segments[lane].units = 0;
    __syncwarp();
    release_next_grid();
    wait_for_previous_grid();

    const Census census(p, lane);
    const int64_t total = census.units * p.cache.kv_heads * launch.row_chunks;
    const Cuts parts(total, useful_parts(total, gridDim.x));
    if (static_cast<int>(blockIdx.x) >= parts.parts) return;
    const Output output{p.out, {p.query_heads / p.cache.kv_heads, p.tokens}, p.cache.bf16,
                        power_of_two(unit_exponent(launch.values.bits()))};
    const int64_t begin = parts.cut(blockIdx.x), share = parts.cut(blockIdx.x + 1) - begin;
    const int log2_warps = __ffs(warps) - 1;  // a power of two
    int64_t unit = begin + (share * warp >> log2_warps);
    const int64_t end = begin + (share * (warp + 1) >> log2_warps);
    if (unit < end) {
        SegmentWalk walk(p, census, launch.row_chunks, unit, lane);
        while (true) {
            const Segment &segment = walk.segment;
            const int from = static_cast<int>(unit - segment.start);
            const int to = static_cast<int>(min(int64_t{segment.units}, end - segment.start));
            Softmax<kTiles> state;
            state.clear();
            attend_piece<kTiles>(launch, layout, walk, from, to, ring, lane, state);
            const bool ends = to == segment.units;
            if (ends && from == 0) {
                write_output(output, segment, state, lane);
            } else {
                const int tail = !ends, at = tail ? plan.ring(warps, warp) : plan.heads() + warp * plan.head_bytes;
                float2 *weights = reinterpret_cast<float2 *>(shared + plan.weights()) + (2 * warp + tail) * kRows;
                write_slot(reinterpret_cast<float *>(shared + at), weights, state, lane);
                if (lane == 0) segments[tail] = segment;
            }
            unit = segment.start + to;
            if (unit >= end) break;
            walk.next();
        }
    }
    __syncthreads();
    merge_warps<kTiles>(output, Partials<kTiles>{launch.partials}, launch.arrivals, parts, launch.row_chunks,
                        p.cache.kv_heads, shared, plan, warps);
}

}  // namespace innerq::attend
