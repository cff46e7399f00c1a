// Packed <-> logical, a warp per tile.
#include "innerq/logical.cuh"

#include "launch.h"
#include "warps.cuh"

namespace innerq {
namespace {

struct Conversion {
    LogicalParams params;
    INNERQ_HD const CacheParams &cache() const { return params.cache; }
    INNERQ_HD bool holds(TilePlace at, int64_t block) const {
        return params.length_B == nullptr || block < blocks_of(params.cache, params.length_B[at.batch]);
    }
};

struct ToLogical : Conversion {
    template <int Part>
    INNERQ_HD void run(TilePlace at, int block, const Warp &warp) const {
        if (holds(at, block)) warp([&](int lane) { tile_to_logical<Part>(params, at, block, lane); });
    }
};

struct FromLogical : Conversion {
    template <int Part>
    INNERQ_HD void run(TilePlace at, int block, const Warp &warp) const {
        if (holds(at, block)) warp([&](int lane) { tile_from_logical<Part>(params, at, block, lane); });
    }
};

}  // namespace

innerq_status launch_to_logical(const LogicalParams &params, void *stream) {
    if (params.cache.capacity_blocks == 0) return INNERQ_OK;
    return for_each_tile("to_logical", ToLogical{{params}}, params.cache.capacity_blocks, stream);
}

innerq_status launch_from_logical(const LogicalParams &params, void *stream) {
    if (params.cache.capacity_blocks == 0) return INNERQ_OK;
    return for_each_tile("from_logical", FromLogical{{params}}, params.cache.capacity_blocks, stream);
}

}  // namespace innerq
