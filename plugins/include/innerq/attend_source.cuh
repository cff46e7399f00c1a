// Where the records of a warp's steps lie: in the sequence's own array, or in pages that a block table names.
#pragma once

#include "innerq/attend_ptx.cuh"
#include "innerq/attend_walk.cuh"

namespace innerq::attend {

// Where there is no row of the record array: a block's page is missing, or the block is not to be read.
inline constexpr unsigned kNoPage = 0xffffffffu, kBehindEnd = 0xfffffffeu;

// Marks the row of a step's first record if the step's records are not all there, one behind the other.
inline constexpr unsigned kApart = 0x80000000u;

// Row of the record array that holds a block of a sequence and KV head, or kNoPage. launch_attend sees to it that rows are
// below kApart.
__device__ __forceinline__ unsigned paged_row(const Task &task, const Segment &segment, int block) {
    const CacheParams &cache = task.params.cache;
    const int entry = task.by_page.divide(block);
    if (entry >= cache.table_stride) return kNoPage;
    const int page = __ldg(cache.block_table + static_cast<int64_t>(segment.batch) * cache.table_stride + entry);
    if (page < 0 || page >= cache.pages) return kNoPage;
    return (unsigned(page) * cache.kv_heads + segment.head) * cache.page_blocks + (block - entry * cache.page_blocks);
}

// The same for a sequence's own array: row of its block 0.
__device__ __forceinline__ unsigned first_row(const Task &task, const Segment &segment) {
    const CacheParams &cache = task.params.cache;
    return (segment.batch * cache.kv_heads + segment.head) * cache.capacity_blocks;
}

__device__ __forceinline__ const uint8_t *record_at(const CacheParams &cache, unsigned row) {
    return cache.blocks + uint64_t{row} * static_cast<unsigned>(cache.record_bytes);
}

// Records of a warp's steps of kCount blocks, of one sequence and KV head: the i-th step begins at block
// begin + kCount * steps.step(i). Pages are looked up for 32 steps at a time, one a lane, so that a step seldom waits for the
// block table. Whole warps call this.
template <int kCount>
class RecordSource {
  public:
    // end: behind the last block.
    __device__ __forceinline__ RecordSource(const Task &task, const Segment &segment, const Team::Steps &steps,
                                            int begin, int end, int lane)
        : task_(task), segment_(segment), steps_(steps), begin_(begin), end_(end), lane_(lane) {
        if (task.params.cache.block_table != nullptr) return;
        block0_ = record_at(task.params.cache, first_row(task, segment));
        limit_ = end;
    }

    __device__ __forceinline__ int block(int step) const { return begin_ + kCount * steps_.step(step); }

    // Whether a whole step from `block` on lies in the sequence's own array, at in_array(block).
    __device__ __forceinline__ bool has_array(int block) const { return block + kCount <= limit_; }
    __device__ __forceinline__ const uint8_t *in_array(int block, int record_bytes) const {
        return block0_ + uint64_t{unsigned(block)} * static_cast<unsigned>(record_bytes);
    }

    // First row of step `step`, if its records lie in one page, else marked: steps in rising order, behind the array's.
    __device__ __forceinline__ unsigned paged_rows(int step) {
        if (block0_ != nullptr) return kApart;
        if (step >= looked_up_) look_up(step);
        return __shfl_sync(0xffffffffu, own_[0], step - (looked_up_ - 32));
    }

    // Rows of a step for which neither has one for all. first: what paged_rows gave.
    __device__ __forceinline__ void find(int step, int block, unsigned first, unsigned (&rows)[kCount]) {
        if (block0_ != nullptr) {
#pragma unroll
            for (int r = 0; r < kCount; ++r)
                rows[r] = block + r < end_ ? first_row(task_, segment_) + block + r : kBehindEnd;
            return;
        }
        rows[0] = first < kBehindEnd ? first & ~kApart : first;
#pragma unroll
        for (int r = 1; r < kCount; ++r) rows[r] = __shfl_sync(0xffffffffu, own_[r], step - (looked_up_ - 32));
    }

  private:
    __device__ __forceinline__ void look_up(int step) {
        looked_up_ = step + 32;
        const int own = block(step + lane_);
        // Steps begin at multiples of kCount, so that each lies in one page of whole steps.
        const bool same_page = task_.params.cache.page_blocks % kCount == 0;
#pragma unroll
        for (int r = 0; r < kCount; ++r) {
            if (own + r >= end_)
                own_[r] = kBehindEnd;
            else if (r > 0 && same_page)
                own_[r] = own_[0] == kNoPage ? kNoPage : own_[0] + r;
            else
                own_[r] = paged_row(task_, segment_, own + r);
        }
        // The first two steps' copies follow at once.
        if (lane_ >= 2 && own_[0] < kApart) prefetch_line(record_at(task_.params.cache, own_[0]));
        bool apart = false;
#pragma unroll
        for (int r = 1; r < kCount; ++r) apart = apart || own_[r] != own_[0] + r;
        if (apart) own_[0] |= kApart;
    }

    const Task &task_;
    const Segment &segment_;
    const Team::Steps &steps_;
    int begin_, end_, lane_;
    const uint8_t *block0_ = nullptr;  // of the array
    int limit_ = 0;                    // behind the array's last block
    int looked_up_ = 0;                // behind the last step looked up
    unsigned own_[kCount];             // rows of this lane's one of these steps, the first perhaps marked
};

}  // namespace innerq::attend
