// Runs a piece of ring 1 for every tile place of a cache: a warp each on the GPU, a loop on the host.
#pragma once

#include "innerq.h"
#include "innerq/tile.cuh"
#include "status.h"

namespace innerq {

// Tile places of a cache; the tile counts fastest, so that the warps of a CTA share the rows they read.
INNERQ_HD inline int64_t places_of(const CacheParams &cache) {
    return int64_t{2} * cache.batch * cache.kv_heads * (cache.head_dim / kGroup);
}

INNERQ_HD inline TilePlace place_of(const CacheParams &cache, uint32_t index) {
    const uint32_t tiles = cache.head_dim / kGroup, heads = cache.kv_heads;
    const uint32_t part = index / tiles, head = part / 2;
    return {static_cast<int>(head / heads), static_cast<int>(head % heads), static_cast<int>(part % 2),
            static_cast<int>(index % tiles)};
}

#ifdef __CUDACC__

constexpr int kWarpsPerCta = 4;
constexpr unsigned kMaxGridY = 65535;

// work(place, row, scratch, warp) for every place and row.
template <class Work>
__global__ void __launch_bounds__(32 * kWarpsPerCta) run_places(const __grid_constant__ Work work, int64_t rows) {
    __shared__ TileScratch scratch[kWarpsPerCta];
    const int warp = threadIdx.x / 32;
    const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarpsPerCta + warp;
    if (index >= places_of(work.cache())) return;
    const TilePlace at = place_of(work.cache(), static_cast<uint32_t>(index));
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) work(at, row, scratch[warp], Warp{});
}

template <class Work>
innerq_status for_each_place(const char *name, const Work &work, int64_t rows, void *stream) {
    cudaLaunchConfig_t config = {};
    config.gridDim.x = static_cast<unsigned>((places_of(work.cache()) + kWarpsPerCta - 1) / kWarpsPerCta);
    config.gridDim.y = static_cast<unsigned>(rows < kMaxGridY ? rows : kMaxGridY);
    config.blockDim.x = 32 * kWarpsPerCta;
    config.stream = static_cast<cudaStream_t>(stream);
    const cudaError_t error = cudaLaunchKernelEx(&config, run_places<Work>, work, rows);
    if (error == cudaSuccess) return INNERQ_OK;
    return fail(INNERQ_CUDA_ERROR, "%s: launch of %u x %u CTAs: %s", name, config.gridDim.x, config.gridDim.y,
                cudaGetErrorString(error));
}

#else

template <class Work>
innerq_status for_each_place(const char *, const Work &work, int64_t rows, void *) {
    TileScratch scratch;
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t index = 0; index < places_of(work.cache()); ++index)
            work(place_of(work.cache(), static_cast<uint32_t>(index)), row, scratch, Warp{});
    return INNERQ_OK;
}

#endif

}  // namespace innerq
