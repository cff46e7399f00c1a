// A warp's own ring of two stages in shared memory, each of up to two records, filled ahead of use.
//
// sm_90 and later: one elected lane issues 1-D bulk copies that complete on the stage's mbarrier. Before: cp.async, or
// plain copies on sm_75.
#pragma once

#include "innerq/attend_ptx.cuh"
#include "innerq/attend_source.cuh"

namespace innerq::attend {

inline constexpr int kStages = 2;

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
        awaited_ = barriers_;
        policy_ = once ? evict_first_policy() : evict_unchanged_policy();
        if (lane == 0) {
#pragma unroll
            for (int s = 0; s < kStages; ++s) barrier_init(barriers_ + 8 * s);
            barrier_init_fence();
        }
        __syncwarp();
#endif
    }

    // Starts the copy of kCount neighbouring records into the next stage. All lanes are done reading what the stage held.
    template <int kCount>
    __device__ __forceinline__ void fill(const uint8_t *records) {
        const int stage = filled_++ % kStages;
#if INNERQ_BULK_COPY
        bulk_fill(shared_address(memory_ + stage * stage_bytes_), records, kCount * record_bytes_,
                  barriers_ + 8 * stage, policy_);
#else
        copy(stage, 0, records, kCount * record_bytes_);
        finish();
#endif
    }

    // The same for the records of these rows; some may be missing.
    template <int kCount>
    __device__ __forceinline__ void fill(const CacheParams &cache, const unsigned (&rows)[kCount]) {
        const int stage = filled_++ % kStages;
        int there = 0;
#pragma unroll
        for (int r = 0; r < kCount; ++r) {
            there += rows[r] < kBehindEnd;
            missing_ |= (rows[r] == kNoPage) << (2 * stage + r);
        }
        begin(stage, there * record_bytes_);
#pragma unroll
        for (int r = 0; r < kCount; ++r)
            if (rows[r] < kBehindEnd) copy(stage, r * record_bytes_, record_at(cache, rows[r]), record_bytes_);
        finish();
    }

    // Where there is nothing left to ask for.
    __device__ __forceinline__ void skip() { finish(); }

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
        barrier_wait(awaited_, parity_);
        awaited_ = barriers_ + 8 * ((used_ + 1) % kStages), parity_ = (used_ + 1) / kStages & 1;
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
        barrier_expect(barriers_ + 8 * stage, bytes);
#endif
    }
    __device__ __forceinline__ void copy(int stage, int at, const uint8_t *from, int bytes) {
        char *to = memory_ + stage * stage_bytes_ + at;
#if INNERQ_BULK_COPY
        bulk_copy(shared_address(to), from, bytes, barriers_ + 8 * stage, policy_);
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
    uint32_t awaited_, parity_ = 0;  // barrier of the oldest stage in use, worked out ahead
#endif
};

}  // namespace innerq::attend
