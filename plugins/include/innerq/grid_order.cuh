// Programmatic dependent launch (sm_90 and later): a kernel begins while the one before it in the stream still runs.
//
// The rule that keeps this safe: a kernel that launch_early() launches calls wait_for_previous_grid() in every thread,
// before the thread's first access to global memory. The call returns when the grid before has ended and what it wrote is
// visible. That grid has waited likewise, or began when all before it had ended: so whoever waits sees all of the stream
// before it, however many grids in a row are released early. If one did not wait, the grid behind it could overtake the
// one before it. Loads behind the call are no __ldg unless their address hangs on another: the compiler may move those.
#pragma once

namespace innerq {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ __forceinline__ void wait_for_previous_grid() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next grid begin once all CTAs of this one have: in what they leave free of a multiprocessor.
__device__ __forceinline__ void release_next_grid() { asm volatile("griddepcontrol.launch_dependents;"); }
#elif defined(__CUDACC__)
__device__ __forceinline__ void wait_for_previous_grid() {}
__device__ __forceinline__ void release_next_grid() {}
#endif

}  // namespace innerq
