// The line of segments as a warp walks it on the device (attend_plan.cuh says what a segment is).
#pragma once

#include "attend_plan.cuh"
#include "innerq/cache.cuh"

namespace innerq::attend {

// A segment's place in the line of work, and what it is. units == 0: none.
struct Segment {
    int64_t start;
    int units, batch, head, row_chunk, fresh;
};

// Query rows of a KV head, token-major: row i is head i mod group of token i / group.
struct RowMap {
    int group, tokens;
    __device__ __forceinline__ int token_of(int row) const { return tokens == 1 ? row >= group : row / group; }
};

__device__ __forceinline__ Sequence read_sequence(const AttendParams &p, int batch) {
    const int fresh = p.new_length_B == nullptr ? p.tokens : __ldg(p.new_length_B + batch);
    return Sequence(__ldg(p.past_length_B + batch), fresh, p.tokens,
                    CacheShape{p.cache.sink, p.cache.ring, p.cache.capacity_blocks});
}

__device__ __forceinline__ unsigned warp_sum(unsigned x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, x);
#else
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
#endif
}

// Units of one (KV head, row chunk) of all sequences, and of the first 32 sequences, one a lane.
struct Census {
    int64_t units = 0;
    unsigned first = 0;

    __device__ __forceinline__ Census(const AttendParams &p, int lane) {
        for (int base = 0; base < p.cache.batch; base += 32) {
            const int b = base + lane;
            const unsigned own = b < p.cache.batch ? read_sequence(p, b).units : 0;
            if (base == 0) first = own;
            units += warp_sum(own);
        }
    }
};

// Walks along the line of segments from a unit on. Whole warps.
class SegmentWalk {
   public:
    Sequence sequence;
    Segment segment;

    __device__ __forceinline__ SegmentWalk(const AttendParams &p, const Census &census, int row_chunks, int64_t unit,
                                           int lane)
        : SegmentWalk(p, row_chunks, find(p, census, divide(unit, p.cache.kv_heads * row_chunks), lane)) {
        const int64_t start = segment.start * p.cache.kv_heads * row_chunks;
        index_ = static_cast<int>(divide(unit - start, sequence.units));
        place(start + static_cast<int64_t>(index_) * sequence.units);
    }

    __device__ __forceinline__ void next() {
        const int64_t start = segment.start + segment.units;
        if (++index_ == params_.cache.kv_heads * row_chunks_) {
            index_ = 0;
            ++segment.batch;
            sequence = read_sequence(params_, segment.batch);
        }
        place(start);
    }

   private:
    struct Found {
        int batch;
        int64_t before;  // units of one head of the sequences before
    };

    __device__ __forceinline__ SegmentWalk(const AttendParams &p, int row_chunks, Found found)
        : sequence(read_sequence(p, found.batch)), params_(p), row_chunks_(row_chunks) {
        segment.batch = found.batch;
        segment.start = found.before;
    }

    static __device__ __forceinline__ Found find(const AttendParams &p, const Census &census, int64_t unit, int lane) {
        int64_t before = 0;
        for (int base = 0;; base += 32) {
            const int b = base + lane;
            unsigned own = census.first;
            if (base > 0) own = b < p.cache.batch ? read_sequence(p, b).units : 0;
            unsigned upto = own;
#pragma unroll
            for (int step = 1; step < 32; step *= 2) {
                const unsigned other = __shfl_up_sync(0xffffffffu, upto, step);
                if (lane >= step) upto += other;
            }
            const unsigned beyond = __ballot_sync(0xffffffffu, before + upto > unit);
            if (beyond != 0) {
                const int found = __ffs(beyond) - 1;
                return {base + found, before + __shfl_sync(0xffffffffu, upto - own, found)};
            }
            before += __shfl_sync(0xffffffffu, upto, 31);
        }
    }

    __device__ __forceinline__ void place(int64_t start) {
        segment.start = start;
        segment.units = sequence.units;
        segment.head = row_chunks_ == 1 ? index_ : index_ / row_chunks_;
        segment.row_chunk = index_ - segment.head * row_chunks_;
        segment.fresh = sequence.fresh;
    }

    const AttendParams &params_;
    int row_chunks_, index_;
};

}  // namespace innerq::attend
