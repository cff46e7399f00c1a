// Cache -> plain keys and values in token order.
#include "innerq/dequantise.cuh"

#include "launch.h"
#include "units.cuh"

namespace innerq {
namespace {

struct Dequantise {
    DequantiseParams params;
    INNERQ_HD const CacheParams &cache() const { return params.cache; }
    INNERQ_HD void operator()(TilePlace at, int64_t row, TileScratch &scratch, const Team &team) const {
        read_segment(params, at, row, scratch, team);
    }
};

}  // namespace

innerq_status launch_dequantise(const DequantiseParams &params, void *stream) {
    return for_each_place("dequantise", Dequantise{params}, (params.tokens + kGroup - 1) / kGroup, stream);
}

}  // namespace innerq
