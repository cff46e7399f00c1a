// Cache -> plain keys and values in token order.
#include "innerq/dequantise.cuh"

#include "launch.h"
#include "warps.cuh"

namespace innerq {
namespace {

struct Dequantise {
    DequantiseParams params;
    INNERQ_HD const CacheParams &cache() const { return params.cache; }
    template <int Part>
    INNERQ_HD void run(TilePlace at, int row, const Warp &warp) const {
        warp([&](int lane) { read_segment<Part>(params, at, row, lane); });
    }
};

}  // namespace

innerq_status launch_dequantise(const DequantiseParams &params, void *stream) {
    return for_each_tile("dequantise", Dequantise{params}, (params.tokens + kGroup - 1) / kGroup, stream);
}

}  // namespace innerq
