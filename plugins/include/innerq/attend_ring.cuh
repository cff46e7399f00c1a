// A warp's own ring of two stages in shared memory, each of up to two records, filled ahead of use.
//
// sm_90 and later: one elected lane issues 1-D bulk copies that complete on the stage's mbarrier. Before: cp.async, or
// plain copies on sm_75.
#pragma once

#include "innerq/attend_ptx.cuh"
#include "innerq/attend_walk.cuh"

namespace innerq::attend {

inline constexpr int kStages = 2;

// Records of one sequence and KV head, asked for in rising order: runs of neighbours, the whole cache or a page. Whole
// warps call this.
class RecordSource {
  public:
    // end: behind the last block that will be asked for.
    __device__ __forceinline__ RecordSource(const Task &task, const Segment &segment, int end, int lane)
        : cache_(task.params.cache), by_page_(task.by_page), segment_(segment), lane_(lane), end_(end) {
        if (cache_.block_table != nullptr) return;
        limit_ = min(cache_.capacity_blocks, end);
        block0_ = cache_.blocks + bytes_of((segment.batch * cache_.kv_heads + segment.head) * cache_.capacity_blocks);
    }

    // Whether records block .. block + count - 1 are there, side by side, in the run entered last.
    __device__ __forceinline__ bool has(int block, int count) const { return block + count <= limit_; }
    __device__ __forceinline__ const uint8_t *in_run(int block) const { return block0_ + bytes_of(block); }
    // The same after entering the run of `block`.
    __device__ __forceinline__ bool enter(int block, int count) {
        if (block >= limit_ && cache_.block_table != nullptr && block < end_) enter_page(block);
        return has(block, count);
    }
    // The record of a block, or nullptr if its page is missing.
    __device__ __forceinline__ const uint8_t *record(int block) { return enter(block, 1) ? in_run(block) : nullptr; }

  private:
    // Of so many records; launch_attend sees to it that those of all sequences fit an int.
    __device__ __forceinline__ uint64_t bytes_of(unsigned records) const {
        return uint64_t{records} * static_cast<unsigned>(cache_.record_bytes);
    }

    // Keeps 32 entries of the block table, one a lane, so that a look-up seldom waits for memory.
    __device__ __forceinline__ void enter_page(int block) {
        const int entry = by_page_.divide(block);
        if (entry < first_entry_ || entry >= first_entry_ + 32) {
            first_entry_ = entry;
            const int64_t row = static_cast<int64_t>(segment_.batch) * cache_.table_stride;
            page_ = entry + lane_ < cache_.table_stride ? __ldg(cache_.block_table + row + entry + lane_) : -1;
        }
        const int page = __shfl_sync(0xffffffffu, page_, entry - first_entry_);
        limit_ = 0;
        if (page < 0 || page >= cache_.pages) return;
        const int begin = entry * cache_.page_blocks;
        limit_ = min(begin + cache_.page_blocks, end_);
        const int64_t row = (static_cast<int64_t>(page) * cache_.kv_heads + segment_.head) * cache_.page_blocks;
        block0_ = cache_.blocks + (row - begin) * cache_.record_bytes;
    }

    const CacheParams &cache_;
    const Divisor &by_page_;
    const Segment &segment_;
    int lane_, end_;
    int first_entry_ = -64, page_ = -1;
    int limit_ = 0;                    // behind the run's last block
    const uint8_t *block0_ = nullptr;  // where block 0 would be if the run began there
};

// Activation rows [D] that lie side by side.
struct RowRun {
    const uint16_t *from;
    int count;
};

class Ring {
  public:
    // memory: kStages * stage_bytes bytes, 16-byte aligned; barriers: kStages 8-byte words. Both this warp's own.
    // once: no other CTA reads the same records, so they need not stay in the L2 cache.
    __device__ __forceinline__ Ring(char *memory, uint64_t *barriers, int stage_bytes, int record_bytes, bool once,
                                    int lane)
        : memory_(memory),
          barriers_(shared_address(barriers)),
          stage_bytes_(stage_bytes),
          record_bytes_(record_bytes),
          lane_(lane) {
#if INNERQ_BULK_COPY
        policy_ = once ? evict_first_policy() : evict_unchanged_policy();
        if (lane == 0) {
#pragma unroll
            for (int s = 0; s < kStages; ++s) barrier_init(barriers_ + 8 * s);
            barrier_init_fence();
        }
        __syncwarp();
#endif
    }

    // Starts the copy of kCount records from `block` on, neighbours in the run that `source` has entered, into the next
    // stage. All lanes are done reading what the stage held.
    template <int kCount>
    __device__ __forceinline__ void fill(const RecordSource &source, int block) {
        const int stage = filled_++ % kStages;
        begin(stage, kCount * record_bytes_);
        copy(stage, 0, source.in_run(block), kCount * record_bytes_);
        finish();
    }

    // The same for 0, 1 or 2 records that may lie in several pages or be missing.
    __device__ __forceinline__ void fill_some(RecordSource &source, int block, int count) {
        if (count == 0) return finish();
        const int stage = filled_++ % kStages;
        const uint8_t *first = source.record(block);
        const uint8_t *second = count > 1 ? source.record(block + 1) : nullptr;
        missing_ |= ((first == nullptr) | (count > 1 && second == nullptr) << 1) << (2 * stage);
        begin(stage, ((first != nullptr) + (second != nullptr)) * record_bytes_);
        if (first != nullptr) copy(stage, 0, first, record_bytes_);
        if (second != nullptr) copy(stage, record_bytes_, second, record_bytes_);
        finish();
    }

    // Starts the copy of rows 0 .. count - 1 of row_bytes each; rows(i): the run that row i begins.
    template <class Rows>
    __device__ __forceinline__ void fill_rows(int count, int row_bytes, const Rows &rows) {
        const int stage = filled_++ % kStages;
        begin(stage, count * row_bytes);
#pragma unroll 1
        for (int i = 0; i < count;) {
            const RowRun run = rows(i);
            const int length = min(run.count, count - i);
            copy(stage, i * row_bytes, reinterpret_cast<const uint8_t *>(run.from), length * row_bytes);
            i += length;
        }
        finish();
    }

    // Waits for the oldest stage in use.
    __device__ __forceinline__ const char *wait() {
        const int stage = used_ % kStages;
#if INNERQ_BULK_COPY
        barrier_wait(barriers_ + 8 * stage, (used_ / kStages) & 1);
#else
        copy_wait<kStages - 1>();
        __syncwarp();
#endif
        ++used_;
        return memory_ + stage * stage_bytes_;
    }

    // Whether every record asked for is there; if not, bit r of `missing` says that record r of the stage last waited for
    // is not.
    __device__ __forceinline__ bool complete() const { return missing_ == 0; }
    __device__ __forceinline__ int missing() {
        const int at = 2 * ((used_ - 1) % kStages), missing = (missing_ >> at) & 3;
        missing_ &= ~(3 << at);
        return missing;
    }

  private:
    __device__ __forceinline__ void begin(int stage, int bytes) {
#if INNERQ_BULK_COPY
        if (lane_ == 0) barrier_expect(barriers_ + 8 * stage, bytes);
#endif
    }
    __device__ __forceinline__ void copy(int stage, int at, const uint8_t *from, int bytes) {
        char *to = memory_ + stage * stage_bytes_ + at;
#if INNERQ_BULK_COPY
        if (lane_ == 0) bulk_copy(shared_address(to), from, bytes, barriers_ + 8 * stage, policy_);
#else
        for (int o = 16 * lane_; o < bytes; o += 512) copy16(to + o, from + o);
#endif
    }
    __device__ __forceinline__ void finish() {
#if !INNERQ_BULK_COPY
        copy_commit();
#endif
    }

    char *memory_;
    uint32_t barriers_;
    int stage_bytes_, record_bytes_;
    int lane_;
    uint32_t filled_ = 0, used_ = 0;
    int missing_ = 0;
#if INNERQ_BULK_COPY
    uint64_t policy_;
#endif
};

}  // namespace innerq::attend
