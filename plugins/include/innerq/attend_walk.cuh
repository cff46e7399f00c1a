// The line of segments as a warp walks it on the device (attend_plan.cuh says what a segment is).
#pragma once

#include "innerq/attend_opening.cuh"

namespace innerq::attend {

// A segment's place in the line of work, and what it is. units == 0: none.
struct alignas(16) Segment {
    int start, units, batch, head, row_chunk, fresh;
};

// The sequence that lane `from` has.
__device__ __forceinline__ Sequence sequence_of(const Sequence &own, int from) {
    Sequence s = own;
    int *const fields[] = {&s.fresh, &s.sinks, &s.tail, &s.behind_sinks, &s.blocks, &s.chunks, &s.units, &s.period};
#pragma unroll
    for (int *field : fields) *field = __shfl_sync(0xffffffffu, *field, from);
    return s;
}

// Walks along the line of segments from a unit on. Whole warps.
class SegmentWalk {
  public:
    Sequence sequence;
    Segment segment;

    __device__ __forceinline__ SegmentWalk(const Task &task, const Sighting &sighting)
        : SegmentWalk(task, sighting, sighting.lane_inside()) {}

    __device__ __forceinline__ void next() {
        const int start = segment.start + segment.units;
        if (++index_ == static_cast<int>(task_.lines.divisor)) {
            index_ = 0;
            ++segment.batch;
            sequence = Lengths(task_.params, segment.batch).sequence(task_.params);
        }
        place(start);
    }

  private:
    __device__ __forceinline__ SegmentWalk(const Task &task, const Sighting &sighting, int lane)
        : sequence(sequence_of(sighting.own.sequence, lane)), task_(task) {
        segment.batch = __shfl_sync(0xffffffffu, sighting.batch, lane);
        index_ = __shfl_sync(0xffffffffu, sighting.index, lane);
        place(__shfl_sync(0xffffffffu, sighting.start, lane) + index_ * sequence.units);
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

}  // namespace innerq::attend
