// Cache -> plain keys and values in token order.
#include "innerq/dequantise.cuh"

#include "by_preset.h"
#include "launch.h"
#include "warps.cuh"

namespace innerq {
namespace {

template <class Kind>
struct Dequantise {
    DequantiseParams params;
    INNERQ_HD const CacheParams &cache() const { return params.cache; }
    template <int Part>
    INNERQ_HD void run(TilePlace at, int row, const Warp &warp) const {
        warp([&](int lane) { read_segment<Kind, Part>(params, at, row, lane); });
    }
};

struct LaunchDequantise {
    const DequantiseParams &params;
    void *stream;

    template <class Kind>
    innerq_status by() const {
        return for_each_tile("dequantise", Dequantise<Kind>{params}, (params.tokens + kGroup - 1) / kGroup, stream);
    }
};

}  // namespace

innerq_status launch_dequantise(const DequantiseParams &params, void *stream) {
    return by_preset_of(params.cache, LaunchDequantise{params, stream});
}

}  // namespace innerq
