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
    INNERQ_HD constexpr int flag() const { return kMaxWarps * 16; }
    INNERQ_HD constexpr int segments() const { return flag() + 16; }
    INNERQ_HD constexpr int weights() const { return segments() + 2 * kMaxWarps * static_cast<int>(sizeof(Segment)); }
    INNERQ_HD constexpr int heads() const { return weights() + 2 * kMaxWarps * kRows * 8; }
    INNERQ_HD constexpr int ring(int warps, int warp) const {
        return heads() + warps * head_bytes + warp * kStages * stage_bytes;
    }
    INNERQ_HD constexpr int bytes(int warps) const { return ring(warps, warps); }
};

__device__ __forceinline__ Sequence read_sequence(const AttendParams &p, int batch) {
    const int fresh = p.new_length_B == nullptr ? p.tokens : __ldg(p.new_length_B + batch);
    return sequence_of(__ldg(p.past_length_B + batch), fresh, p.tokens, p.cache.sink, p.cache.ring,
                       p.cache.capacity_blocks);
}

// Units of all segments of a launch; the same in every lane.
__device__ __forceinline__ int64_t total_units(const AttendParams &p, int row_chunks, int lane) {
    int64_t total = 0;
    for (int b = lane; b < p.cache.batch; b += 32) total += read_sequence(p, b).units;
    for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(0xffffffffu, total, step);
    return total * p.cache.kv_heads * row_chunks;
}

// Walks along the line of segments from a unit on.
class SegmentWalk {
   public:
    Sequence sequence;
    Segment segment;

    __device__ __forceinline__ SegmentWalk(const AttendParams &p, int row_chunks, int64_t unit, int lane)
        : params_(p), row_chunks_(row_chunks) {
        const int per_sequence = p.cache.kv_heads * row_chunks;
        int64_t before = 0;
        for (int base = 0;; base += 32) {
            const int b = base + lane;
            const int64_t own = b < p.cache.batch ? int64_t{read_sequence(p, b).units} * per_sequence : 0;
            int64_t upto = own;
            for (int step = 1; step < 32; step *= 2) {
                const int64_t other = __shfl_up_sync(0xffffffffu, upto, step);
                if (lane >= step) upto += other;
            }
            const unsigned beyond = __ballot_sync(0xffffffffu, before + upto > unit);
            if (beyond == 0) {
                before += __shfl_sync(0xffffffffu, upto, 31);
                continue;
            }
            const int found = __ffs(beyond) - 1;
            const int64_t start = before + __shfl_sync(0xffffffffu, upto - own, found);
            enter(base + found);
            index_ = static_cast<int>((unit - start) / sequence.units);
            place(start + int64_t{index_} * sequence.units);
            return;
        }
    }

    __device__ __forceinline__ void next() {
        const int64_t start = segment.start + segment.units;
        if (++index_ == params_.cache.kv_heads * row_chunks_) {
            index_ = 0;
            enter(segment.batch + 1);
        }
        place(start);
    }

   private:
    __device__ __forceinline__ void enter(int batch) {
        segment.batch = batch;
        sequence = read_sequence(params_, batch);
    }
    __device__ __forceinline__ void place(int64_t start) {
        segment.start = start;
        segment.units = sequence.units;
        segment.head = index_ / row_chunks_;
        segment.row_chunk = index_ % row_chunks_;
        segment.fresh = sequence.fresh;
    }
    const AttendParams &params_;
    int row_chunks_, index_;
};

// Units [from, to) of a segment, by one warp.
template <int kTiles, class KeyCodes, class ValueCodes>
__device__ __forceinline__ void attend_piece(const Launch<KeyCodes, ValueCodes> &launch, const RecordLayout &layout,
                                             const SegmentWalk &walk, int from, int to, Ring &ring, int lane,
                                             Softmax<kTiles> &state) {
    const AttendParams &p = launch.params;
    const Sequence &sequence = walk.sequence;
    const Segment &segment = walk.segment;
    const int window_units = sequence.chunks * kWindowUnits;
    const int end = max(0, to - window_units), per_stage = launch.stage_records;
    int block = max(0, from - window_units);
    RecordSource source(p.cache, segment.batch, segment.head, lane);
    int fetched = block;
    const auto fetch = [&] {
        const int count = clamp_int(end - fetched, 0, per_stage);
        ring.fill(source, fetched, count);
        fetched += count;
    };
#pragma unroll
    for (int s = 0; s < kStages; ++s) fetch();

    const int group = p.query_heads / p.cache.kv_heads;
    const float log2_scale = p.scale * 1.4426950408889634f;
    const auto query_row = [&](int n) -> const char * {
        const int index = segment.row_chunk * kRows + n, token = index / group;
        if (token >= segment.fresh) return nullptr;
        return reinterpret_cast<const char *>(
            token_row(p.query, segment.batch, segment.head * group + index % group, token));
    };
    const char *row = query_row(lane >> 2);
    if (from < window_units) {
        const Window window{p.cache, p.key, p.value, sequence, segment.batch, segment.head};
        int limit[2];
#pragma unroll
        for (int e = 0; e < 2; ++e)
            limit[e] = sequence.sinks + sequence.tail + 1 + (segment.row_chunk * kRows + 2 * (lane & 3) + e) / group;
        const float unit = power_of_two(-kWindowExponent - unit_exponent(launch.values.bits()));
        for (int chunk = (from + kWindowUnits - 1) / kWindowUnits;
             chunk < sequence.chunks && chunk * kWindowUnits < to; ++chunk)
            attend_window<kTiles>(window, chunk * kWindowTokens, row, limit, log2_scale, unit, lane, state);
    }
    if (block >= end) return;

    Query<kTiles, KeyCodes> query;
    query.load(launch.keys, row, p.cache.learns_lambda ? lambda_row(p.cache, segment.batch, segment.head) : nullptr,
               p.cache.bf16, log2_scale, lane);
    while (block < end) {
        int seen;
        const char *stage = ring.wait(seen);
        const int count = min(per_stage, end - block);
        const bool partly = block + count == sequence.blocks && sequence.last_tokens < kGroup;
        if (seen == 3 && !partly) {
            attend_records<2>(launch.keys, launch.values, query, stage, layout, kGroup, lane, state);
        } else {
#pragma unroll 1
            for (int r = 0; r < count; ++r)
                if ((seen >> r) & 1)
                    attend_records<1>(launch.keys, launch.values, query, stage + r * layout.bytes, layout,
                                      partly && r == count - 1 ? sequence.last_tokens : kGroup, lane, state);
        }
        block += count;
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
    int *flag = reinterpret_cast<int *>(shared + plan.flag());
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
        const int first = cuts.part_of(segment.start), last = cuts.part_of(segment.start + segment.units - 1);
        const int64_t counter = (static_cast<int64_t>(segment.batch) * kv_heads + segment.head) * row_chunks +
                                segment.row_chunk;
        if (arrive(arrivals + counter, last - first + 1, flag))
            merge_parts<kTiles>(output, segment, partials, first, last);
    }
}

template <int kHeadDim, class KeyCodes, class ValueCodes>
__global__ void __launch_bounds__(32 * kMaxWarps, 1)
    attend_kernel(const __grid_constant__ Launch<KeyCodes, ValueCodes> launch) {
    constexpr int kTiles = kHeadDim / 32;
    extern __shared__ __align__(128) char shared[];
    const AttendParams &p = launch.params;
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
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

    const int64_t total = total_units(p, launch.row_chunks, lane);
    const Cuts parts{total, useful_parts(total, gridDim.x)};
    const Cuts shares{total, parts.parts * warps};
    if (static_cast<int>(blockIdx.x) >= parts.parts) return;
    const Output output{p.out, p.query_heads / p.cache.kv_heads, p.tokens, p.cache.bf16,
                        power_of_two(unit_exponent(launch.values.bits()))};
    int64_t unit = shares.cut(blockIdx.x * warps + warp);
    const int64_t end = shares.cut(blockIdx.x * warps + warp + 1);
    if (unit < end) {
        SegmentWalk walk(p, launch.row_chunks, unit, lane);
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
