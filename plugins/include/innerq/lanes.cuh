// A warp as a loop: a step is a function of the lane. On the GPU every lane runs it; on the host a loop runs the lanes
// one after the other. Lanes tell each other numbers by the functions below, between steps. One source, one arithmetic.
#pragma once

#include "innerq/portable.cuh"

namespace innerq {

constexpr int kLanes = 32;

struct Warp {
    template <class Step>
    INNERQ_HD void operator()(const Step &step) const {
#ifdef __CUDA_ARCH__
        step(static_cast<int>(threadIdx.x % kLanes));
#else
        for (int lane = 0; lane < kLanes; ++lane) step(lane);
#endif
    }

    // Every lane has done what stands before, its loads and stores included.
    INNERQ_HD void meet() const {
#ifdef __CUDA_ARCH__
        __syncwarp();
#endif
    }
};

// What a lane keeps from one step to the next: registers on the GPU.
template <class T>
struct PerLane {
#ifdef __CUDA_ARCH__
    T own;
    __device__ T &operator[](int) { return own; }
#else
    T of_lane[kLanes];
    T &operator[](int lane) { return of_lane[lane]; }
#endif
};

// N numbers of a lane.
template <int N>
struct Numbers {
    float of[N];
};

// Every lane gets what lane ^ `mask` has.
template <int N>
INNERQ_HD inline void exchange(PerLane<Numbers<N>> &x, int mask) {
#ifdef __CUDA_ARCH__
    INNERQ_UNROLL
    for (int i = 0; i < N; ++i) x.own.of[i] = __shfl_xor_sync(0xffffffffu, x.own.of[i], mask);
#else
    const PerLane<Numbers<N>> before = x;
    for (int lane = 0; lane < kLanes; ++lane) x[lane] = before.of_lane[lane ^ mask];
#endif
}

// Number i of every lane: what lane i of its quad, four neighbouring lanes, has.
INNERQ_HD inline PerLane<Numbers<4>> of_quad(const PerLane<float> &x) {
    PerLane<Numbers<4>> all;
#ifdef __CUDA_ARCH__
    INNERQ_UNROLL
    for (int i = 0; i < 4; ++i) all.own.of[i] = __shfl_sync(0xffffffffu, x.own, i, 4);
#else
    for (int lane = 0; lane < kLanes; ++lane)
        for (int i = 0; i < 4; ++i) all[lane].of[i] = x.of_lane[lane / 4 * 4 + i];
#endif
    return all;
}

// Every lane gets what lane from(lane) has.
template <class From>
INNERQ_HD inline PerLane<float> gathered(const PerLane<float> &x, const From &from) {
    PerLane<float> got;
#ifdef __CUDA_ARCH__
    got.own = __shfl_sync(0xffffffffu, x.own, from(static_cast<int>(threadIdx.x % kLanes)));
#else
    for (int lane = 0; lane < kLanes; ++lane) got[lane] = x.of_lane[from(lane)];
#endif
    return got;
}

// Whether any lane says so.
INNERQ_HD inline bool any_lane(const PerLane<bool> &x) {
#ifdef __CUDA_ARCH__
    return __any_sync(0xffffffffu, x.own) != 0;
#else
    for (const bool lane : x.of_lane)
        if (lane) return true;
    return false;
#endif
}

// Joins each of four numbers over the quad; lane q of it gets number q. `join` does not mind the order.
template <class Join>
INNERQ_HD inline PerLane<float> join_over_quad(const Warp &warp, PerLane<Numbers<4>> x, const Join &join) {
    PerLane<Numbers<2>> kept, given;
    warp([&](int lane) {
        INNERQ_UNROLL
        for (int i = 0; i < 2; ++i) {
            const float even = x[lane].of[2 * i], odd = x[lane].of[2 * i + 1];
            kept[lane].of[i] = lane & 1 ? odd : even;
            given[lane].of[i] = lane & 1 ? even : odd;
        }
    });
    exchange(given, 1);
    PerLane<Numbers<1>> last;
    warp([&](int lane) {
        const float low = join(kept[lane].of[0], given[lane].of[0]), high = join(kept[lane].of[1], given[lane].of[1]);
        kept[lane].of[0] = lane & 2 ? high : low;
        last[lane].of[0] = lane & 2 ? low : high;
    });
    exchange(last, 2);
    PerLane<float> joined;
    warp([&](int lane) { joined[lane] = join(kept[lane].of[0], last[lane].of[0]); });
    return joined;
}

}  // namespace innerq
