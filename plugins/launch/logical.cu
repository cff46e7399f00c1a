// Packed <-> logical, a tile per CTA.
#include "innerq/logical.cuh"

#include "launch.h"
#include "units.cuh"

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
    INNERQ_HD void operator()(TilePlace at, int64_t block, TileScratch &scratch, const Team &team) const {
        if (holds(at, block)) tile_to_logical(params, at, block, scratch, team);
    }
};

struct FromLogical : Conversion {
    INNERQ_HD void operator()(TilePlace at, int64_t block, TileScratch &scratch, const Team &team) const {
        if (holds(at, block)) tile_from_logical(params, at, block, scratch, team);
    }
};

}  // namespace

innerq_status launch_to_logical(const LogicalParams &params, void *stream) {
    if (params.cache.capacity_blocks == 0) return INNERQ_OK;
    return for_each_place("to_logical", ToLogical{{params}}, params.cache.capacity_blocks, stream);
}

innerq_status launch_from_logical(const LogicalParams &params, void *stream) {
    if (params.cache.capacity_blocks == 0) return INNERQ_OK;
    return for_each_place("from_logical", FromLogical{{params}}, params.cache.capacity_blocks, stream);
}

}  // namespace innerq
