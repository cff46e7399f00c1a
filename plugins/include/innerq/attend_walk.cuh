// The line of segments as a warp walks it on the device (attend_plan.cuh says what a segment is).
#pragma once

#include "innerq/attend_plan.cuh"
#include "innerq/cache.cuh"

namespace innerq::attend {

// What every kernel is told beside the codes.
struct Task {
    AttendParams params;
    int group;       // query heads per KV head
    int row_chunks;  // chunks of 8 query rows per KV head
    Divisor lines;   // kv_heads * row_chunks: segments of a sequence
    Divisor by_chunks, by_group, by_page, by_ring, by_warps, by_grid;
    unsigned *arrivals;  // [B, Hkv, row_chunks], zero before and after
    float *partials;     // [kMaxParts, 2] partials
};

// A segment's place in the line of work, and what it is. units == 0: none.
struct alignas(16) Segment {
    int start, units, batch, head, row_chunk, fresh;
};

__device__ __forceinline__ Sequence read_sequence(const AttendParams &p, int batch) {
    const int fresh = p.new_length_B == nullptr ? p.tokens : __ldg(p.new_length_B + batch);
    return Sequence(__ldg(p.past_length_B + batch), fresh, p.tokens,
                    CacheShape{p.cache.sink, p.cache.ring, p.cache.capacity_blocks});
}

// The sequence that lane `from` has.
__device__ __forceinline__ Sequence sequence_of(const Sequence &own, int from) {
    Sequence s = own;
    int *const fields[] = {&s.fresh, &s.sinks, &s.tail, &s.behind_sinks, &s.blocks, &s.chunks, &s.units, &s.period};
#pragma unroll
    for (int *field : fields) *field = __shfl_sync(0xffffffffu, *field, from);
    return s;
}

__device__ __forceinline__ int warp_sum(int x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, x);
#else
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
#endif
}

// Units of one line (KV head and row chunk) of all sequences, and the first 32 of these, one a lane; those of lanes without
// one have no units.
struct Census {
    Sequence own;
    int units;

    __device__ __forceinline__ Census(const AttendParams &p, int lane) : own(of_lane(p, lane)) {
        units = warp_sum(own.units);
#pragma unroll 1
        for (int base = 32; base < p.cache.batch; base += 32) units += warp_sum(of_lane(p, base + lane).units);
    }

    static __device__ __forceinline__ Sequence of_lane(const AttendParams &p, int batch) {
        Sequence own = read_sequence(p, min(batch, p.cache.batch - 1));
        if (batch >= p.cache.batch) own.units = 0;
        return own;
    }
};

// Walks along the line of segments from a unit on. Whole warps.
class SegmentWalk {
  public:
    Sequence sequence;
    Segment segment;

    __device__ __forceinline__ SegmentWalk(const Task &task, const Census &census, int unit, int lane)
        : SegmentWalk(task, find(task.params, census, task.lines.divide(unit), lane)) {
        const int start = segment.start * task.lines.divisor;
        index_ = unsigned(unit - start) / unsigned(sequence.units);
        place(start + index_ * sequence.units);
    }

    __device__ __forceinline__ void next() {
        const int start = segment.start + segment.units;
        if (++index_ == static_cast<int>(task_.lines.divisor)) {
            index_ = 0;
            ++segment.batch;
            sequence = read_sequence(task_.params, segment.batch);
        }
        place(start);
    }

  private:
    struct Found {
        int batch, before;  // units of one line of the sequences before
        Sequence sequence;
    };

    __device__ __forceinline__ SegmentWalk(const Task &task, const Found &found)
        : sequence(found.sequence), task_(task) {
        segment.batch = found.batch;
        segment.start = found.before;
    }

    // The sequence that holds unit `unit` of a line.
    static __device__ __forceinline__ Found find(const AttendParams &p, const Census &census, int unit, int lane) {
        if (p.cache.batch == 1) return {0, 0, sequence_of(census.own, 0)};
        int before = 0;
        Sequence own = census.own;
#pragma unroll 1
        for (int base = 0;; base += 32) {
            int upto = own.units;
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const int other = __shfl_up_sync(0xffffffffu, upto, step);
                if (lane >= step) upto += other;
            }
            const unsigned beyond = __ballot_sync(0xffffffffu, before + upto > unit);
            if (beyond != 0) {
                const int found = __ffs(beyond) - 1;
                return {base + found, before + __shfl_sync(0xffffffffu, upto - own.units, found),
                        sequence_of(own, found)};
            }
            before += __shfl_sync(0xffffffffu, upto, 31);
            own = Census::of_lane(p, base + 32 + lane);
        }
    }

    __device__ __forceinline__ void place(int start) {
        segment.start = start;
        segment.units = sequence.units;
        segment.head = task_.by_chunks.divide(index_);
        segment.row_chunk = index_ - segment.head * task_.row_chunks;
        segment.fresh = sequence.fresh;
    }

    const Task &task_;
    int index_;
};

// A CTA's units, shared out to its warps.
struct Shares {
    int begin, warps, each, longer;

    __device__ __forceinline__ Shares(const Task &task, int begin, int end)
        : begin(begin),
          warps(task.by_warps.divisor),
          each(task.by_warps.divide(end - begin)),
          longer(end - begin - warps * each) {}

    __device__ __forceinline__ int cut(int warp) const { return begin + each * warp + min(warp, longer); }
    // Warps, as a mask, that have a share and have it in units from .. to.
    __device__ __forceinline__ unsigned within(int from, int to, int lane) const {
        const bool has_share = lane < warps && cut(lane) < cut(lane + 1);
        return __ballot_sync(0xffffffffu, has_share && cut(lane) >= from && cut(lane + 1) <= to);
    }
};

}  // namespace innerq::attend
