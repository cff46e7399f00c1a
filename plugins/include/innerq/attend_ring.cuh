// A warp's own ring of two stages in shared memory, each of up to two records, filled ahead of use.
//
// sm_90 and later: one elected lane issues 1-D bulk copies that complete on the stage's mbarrier. Before: cp.async, or
// plain copies on sm_75.
#pragma once

#include "attend_ptx.cuh"
#include "innerq/cache.cuh"

namespace innerq::attend {

inline constexpr int kStages = 2;

// Records of one sequence and KV head: runs of neighbours, the whole cache or a page. Whole warps call this.
class RecordSource {
   public:
    __device__ __forceinline__ RecordSource(const CacheParams &cache, int batch, int head, int lane)
        : cache_(cache), batch_(batch), head_(head), lane_(lane) {
        if (cache.block_table != nullptr) return;
        run_end_ = cache.capacity_blocks;
        run_ = record_of(cache, batch, head, 0);
    }

    // Records `block` and behind, or nullptr if the page is missing; `count` becomes how many of them are neighbours.
    __device__ __forceinline__ const uint8_t *records(int block, int &count) {
        if (block >= run_end_ || block < run_begin_) enter_page(block);
        count = min(count, run_end_ - block);
        return run_ == nullptr ? nullptr : run_ + static_cast<int64_t>(block - run_begin_) * cache_.record_bytes;
    }

   private:
    // Keeps 32 entries of the block table, one a lane, so that a look-up seldom waits for memory.
    __device__ __forceinline__ void enter_page(int block) {
        const int entry = block / cache_.page_blocks;
        if (entry < first_entry_ || entry >= first_entry_ + 32) {
            first_entry_ = entry;
            const int64_t row = static_cast<int64_t>(batch_) * cache_.table_stride;
            page_ = entry + lane_ < cache_.table_stride ? __ldg(cache_.block_table + row + entry + lane_) : -1;
        }
        const int page = __shfl_sync(0xffffffffu, page_, entry - first_entry_);
        run_begin_ = entry * cache_.page_blocks;
        run_end_ = run_begin_ + cache_.page_blocks;
        run_ = nullptr;
        if (page < 0 || page >= cache_.pages) return;
        const int64_t row = (static_cast<int64_t>(page) * cache_.kv_heads + head_) * cache_.page_blocks;
        run_ = cache_.blocks + row * cache_.record_bytes;
    }

    const CacheParams &cache_;
    int batch_, head_, lane_;
    int first_entry_ = -64, page_ = -1;
    int run_begin_ = 0, run_end_ = 0;
    const uint8_t *run_ = nullptr;
};

class Ring {
   public:
    // memory: kStages * stage_bytes bytes, 16-byte aligned; barriers: kStages 8-byte words. Both this warp's own.
    // once: no other CTA reads the same records, so they need not stay in the L2 cache.
    __device__ __forceinline__ Ring(char *memory, uint64_t *barriers, int stage_bytes, int record_bytes, bool once,
                                    int lane)
        : memory_(memory), barriers_(shared_address(barriers)), stage_bytes_(stage_bytes),
          record_bytes_(record_bytes), lane_(lane) {
#if INNERQ_BULK_COPY
        policy_ = once ? evict_first_policy() : evict_normal_policy();
        if (lane == 0) {
#pragma unroll
            for (int s = 0; s < kStages; ++s) barrier_init(barriers_ + 8 * s);
            barrier_init_fence();
        }
        __syncwarp();
#endif
    }

    // Starts the copies of records `block` .. `block` + count - 1 (count 0, 1, 2) into the next stage. All lanes are done
    // reading what the stage held.
    __device__ __forceinline__ void fill(RecordSource &source, int block, int count) {
        if (count == 0) {
#if !INNERQ_BULK_COPY
            copy_commit();  // keeps "all but the newest group" true for wait()
#endif
            return;
        }
        const int stage = filled_++ % kStages;
        char *to = memory_ + stage * stage_bytes_;
        int first_count = count, second_count = 1;
        const uint8_t *first = source.records(block, first_count);
        const uint8_t *second = nullptr;  // where the next record is no neighbour
        if (first_count < count) second = source.records(block + 1, second_count);
        const int seen = first_count < count ? (first != nullptr) + 2 * (second != nullptr)
                                             : first != nullptr ? count == 2 ? 3 : 1 : 0;
        seen_ = stage ? (seen_ & 3) | (seen << 2) : (seen_ & ~3) | seen;
        const int first_bytes = first == nullptr ? 0 : first_count * record_bytes_;
        const int second_bytes = second == nullptr ? 0 : record_bytes_;
#if INNERQ_BULK_COPY
        if (lane_ != 0) return;
        const uint32_t barrier = barriers_ + 8 * stage, at = shared_address(to);
        barrier_expect(barrier, first_bytes + second_bytes);
        if (first_bytes) bulk_copy(at, first, first_bytes, barrier, policy_);
        if (second_bytes) bulk_copy(at + record_bytes_, second, second_bytes, barrier, policy_);
#else
        for (int o = 16 * lane_; o < first_bytes; o += 512) copy16(to + o, first + o);
        for (int o = 16 * lane_; o < second_bytes; o += 512) copy16(to + record_bytes_ + o, second + o);
        copy_commit();
#endif
    }

    // Waits for the oldest stage in use; bit r of `seen`: record r is there.
    __device__ __forceinline__ const char *wait(int &seen) {
        const int stage = used_ % kStages;
#if INNERQ_BULK_COPY
        barrier_wait(barriers_ + 8 * stage, (used_ / kStages) & 1);
#else
        copy_wait<kStages - 1>();
        __syncwarp();
#endif
        ++used_;
        seen = (seen_ >> (2 * stage)) & 3;
        return memory_ + stage * stage_bytes_;
    }

   private:
    char *memory_;
    uint32_t barriers_;
    int stage_bytes_, record_bytes_;
    int lane_;
    uint32_t filled_ = 0, used_ = 0;
    int seen_ = 0;
#if INNERQ_BULK_COPY
    uint64_t policy_;
#endif
};

}  // namespace innerq::attend
