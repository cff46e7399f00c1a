// Runs a piece of ring 1 for every tile place of a cache: a CTA each on the GPU, a loop on the host.
#pragma once

#include "innerq.h"
#include "innerq/tile.cuh"
#include "status.h"

namespace innerq {

#ifdef __CUDACC__

// work(place, row, scratch, team) for every place and row: a CTA each. grid = (rows x tiles, 2 Hkv, B), the tile
// fastest, so that neighbouring CTAs share the lines they read. D / 32 is a power of two: no index costs a division.
template <class Work>
__global__ void __launch_bounds__(kTeam) run_places(const __grid_constant__ Work work) {
    __shared__ TileScratch scratch;
    const int tiles = work.cache().head_dim / kGroup, shift = 31 - __clz(tiles);
    const TilePlace at{static_cast<int>(blockIdx.z), static_cast<int>(blockIdx.y / 2), static_cast<int>(blockIdx.y % 2),
                       static_cast<int>(blockIdx.x) & (tiles - 1)};
    work(at, static_cast<int>(blockIdx.x >> shift), scratch, Team{});
}

template <class Work>
innerq_status for_each_place(const char *name, const Work &work, int64_t rows, void *stream) {
    const CacheParams &cache = work.cache();
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(rows) * (cache.head_dim / kGroup), 2 * cache.kv_heads, cache.batch);
    config.blockDim = dim3(kTeam);
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
                        work({batch, head, part, tile}, row, scratch, Team{});
    return INNERQ_OK;
}

#endif

}  // namespace innerq
