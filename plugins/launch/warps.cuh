// Runs a piece of ring 1 for every tile place of a cache, a warp each: CTAs of a head's tiles on the GPU, a loop on the
// host.
#pragma once

#include "innerq.h"
#include "innerq/grid_order.cuh"
#include "innerq/lanes.cuh"
#include "innerq/tile.cuh"
#include "status.h"

#ifdef __CUDACC__
#include "launch_early.cuh"
#endif

namespace innerq {

// Whether a kernel begins before the one before it has ended. Among other kernels of a model that loses, for all that
// kernels behind it gain (docs/kernels-notes.md).
enum class Begin { kInOrder, kEarly };

// work.run<part>(place, row, warp)
template <class Work>
INNERQ_HD inline void run_part(const Work &work, TilePlace at, int row) {
    if (at.part == kKeys) {
        work.template run<kKeys>(at, row, Warp{});
    } else {
        work.template run<kValues>(at, row, Warp{});
    }
}

#ifdef __CUDACC__

constexpr int kMaxTiles = 8;  // D = 256

// grid = (rows, 2 Hkv, B), a warp for each of the D / 32 tiles.
template <class Work>
__global__ void __launch_bounds__(kMaxTiles *kLanes) run_tiles(const __grid_constant__ Work work) {
    wait_for_previous_grid();
    release_next_grid();
    const int part = static_cast<int>(blockIdx.y % 2);
    run_part(
        work,
        {static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y / 2), part, static_cast<int>(threadIdx.x / kLanes)},
        static_cast<int>(blockIdx.x));
}

template <class Work>
innerq_status for_each_tile(const char *name, const Work &work, int64_t rows, void *stream,
                            Begin begin = Begin::kInOrder) {
    const CacheParams &cache = work.cache();
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(rows), 2 * cache.kv_heads, cache.batch);
    config.blockDim = dim3(kLanes * (cache.head_dim / kGroup));
    config.stream = static_cast<cudaStream_t>(stream);
    const cudaError_t error = begin == Begin::kEarly ? launch_early(config, run_tiles<Work>, work)
                                                     : cudaLaunchKernelEx(&config, run_tiles<Work>, work);
    if (error == cudaSuccess) return INNERQ_OK;
    return fail(INNERQ_CUDA_ERROR, "%s: launch of %u x %u x %u CTAs: %s", name, config.gridDim.x, config.gridDim.y,
                config.gridDim.z, cudaGetErrorString(error));
}

#else

template <class Work>
innerq_status for_each_tile(const char *, const Work &work, int64_t rows, void *, Begin = Begin::kInOrder) {
    const CacheParams &cache = work.cache();
    for (int batch = 0; batch < cache.batch; ++batch)
        for (int head = 0; head < cache.kv_heads; ++head)
            for (int part = 0; part < 2; ++part)
                for (int row = 0; row < rows; ++row)
                    for (int tile = 0; tile < cache.head_dim / kGroup; ++tile)
                        run_part(work, {batch, head, part, tile}, row);
    return INNERQ_OK;
}

#endif

}  // namespace innerq
