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
    Divisor by_chunks, by_group, by_page, by_ring;
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

__device__ __forceinline__ int warp_sum(int x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, x);
#else
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
#endif
}

// Units of one line (KV head and row chunk) of all sequences; `own`: of the first 32 sequences, one a lane.
struct Census {
    int units, own;

    __device__ __forceinline__ Census(const AttendParams &p, int lane) {
        own = lane < p.cache.batch ? read_sequence(p, lane).units : 0;
        units = warp_sum(own);
#pragma unroll 1
        for (int base = 32; base < p.cache.batch; base += 32)
            units += warp_sum(base + lane < p.cache.batch ? read_sequence(p, base + lane).units : 0);
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
    };

    __device__ __forceinline__ SegmentWalk(const Task &task, Found found)
        : sequence(read_sequence(task.params, found.batch)), task_(task) {
        segment.batch = found.batch;
        segment.start = found.before;
    }

    // The sequence that holds unit `unit` of a line.
    static __device__ __forceinline__ Found find(const AttendParams &p, const Census &census, int unit, int lane) {
        if (p.cache.batch == 1) return {0, 0};
        int before = 0, own = census.own;
#pragma unroll 1
        for (int base = 0;; base += 32) {
            int upto = own;
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const int other = __shfl_up_sync(0xffffffffu, upto, step);
                if (lane >= step) upto += other;
            }
            const unsigned beyond = __ballot_sync(0xffffffffu, before + upto > unit);
            if (beyond != 0) {
                const int found = __ffs(beyond) - 1;
                return {base + found, before + __shfl_sync(0xffffffffu, upto - own, found)};
            }
            before += __shfl_sync(0xffffffffu, upto, 31);
            own = base + 32 + lane < p.cache.batch ? read_sequence(p, base + 32 + lane).units : 0;
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

// A CTA's units, shared out to its warps, a power of two.
struct Shares {
    int begin, units, log2_warps;

    __device__ __forceinline__ int cut(int warp) const { return begin + (units * warp >> log2_warps); }
    // Warps, as a mask, that have a share and have it in units from .. to.
    __device__ __forceinline__ unsigned within(int from, int to, int lane) const {
        const bool has_share = lane < 1 << log2_warps && cut(lane) < cut(lane + 1);
        return __ballot_sync(0xffffffffu, has_share && cut(lane) >= from && cut(lane + 1) <= to);
    }
};

}  // namespace innerq::attend
