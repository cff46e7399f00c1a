// What attend.cu decides for a launch, and the kernels of one head dim that carry it out (attend_d64.cu ...).
#pragma once

#include "innerq/attend_walk.cuh"
#include "status.h"

namespace innerq {

// The card at hand.
struct Card {
    int multiprocessors;
    int shared_bytes;  // a CTA can have
};

struct AttendChoice {
    attend::Task task;
    Card card;
    void *stream;
};

template <int kHeadDim>
innerq_status launch_attend_for(const AttendChoice &choice);

}  // namespace innerq
