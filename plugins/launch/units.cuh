// Runs a piece of ring 1 for every tile place of a cache: a warp each on the GPU, a loop on the host.
#pragma once

#include "innerq.h"
#include "innerq/tile.cuh"
#include "status.h"

namespace innerq {

#ifdef __CUDACC__

constexpr unsigned kWarpsPerCta = 4;

// work(place, row, scratch, warp) for every place and row. grid = (rows x tiles / warps, 2 Hkv, B): the warps of a CTA
// take neighbouring tiles, so that they share the rows they read, and no index costs a division.
template <class Work>
__global__ void __launch_bounds__(32 * kWarpsPerCta) run_places(const __grid_constant__ Work work) {
    __shared__ TileScratch scratch[kWarpsPerCta];
    const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const int groups = work.cache().head_dim / kGroup / warps;  // 1, or 2 for D = 256
    const int row = groups == 1 ? blockIdx.x : blockIdx.x / 2, group = groups == 1 ? 0 : blockIdx.x % 2;
    const TilePlace at{static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y / 2), static_cast<int>(blockIdx.y % 2),
                       group * warps + warp};
    work(at, row, scratch[warp], Warp{});
}

template <class Work>
innerq_status for_each_place(const char *name, const Work &work, int64_t rows, void *stream) {
    const CacheParams &cache = work.cache();
    const unsigned tiles = cache.head_dim / kGroup, warps = tiles < kWarpsPerCta ? tiles : kWarpsPerCta;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(rows) * (tiles / warps), 2 * cache.kv_heads, cache.batch);
    config.blockDim = dim3(32 * warps);
    config.stream = static_cast<cudaStream_t>(stream);
    const cudaError_t error = cudaLaunchKernelEx(&config, run_places<Work>, work);
    if (error == cudaSuccess) return INNERQ_OK;
    return fail(INNERQ_CUDA_ERROR, "%s: launch of %u x %u x %u CTAs: %s", name, config.gridDim.x, config.gridDim.y,
                config.gridDim.z, cudaGetErrorString(error));
}

#else

template <class Work>
innerq_status for_each_place(const char *, const Work &work, int64_t rows, void *) {
    const CacheParams &cache = work.cache();
    TileScratch scratch;
    for (int batch = 0; batch < cache.batch; ++batch)
        for (int head = 0; head < cache.kv_heads; ++head)
            for (int part = 0; part < 2; ++part)
                for (int row = 0; row < rows; ++row)
                    for (int tile = 0; tile < cache.head_dim / kGroup; ++tile)
                        work({batch, head, part, tile}, row, scratch, Warp{});
    return INNERQ_OK;
}

#endif

}  // namespace innerq
