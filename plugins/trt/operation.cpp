#include "operation.h"

namespace innerq::trt {

innerq_cache cache_of(const Call &call, const void *window, const void *key_norm, const void *blocks) noexcept {
    innerq_cache cache{};
    cache.struct_bytes = sizeof cache;
    cache.batch = call.size[kB];
    cache.kv_heads = call.size[kHkv];
    cache.capacity_blocks = call.size[kNB];
    cache.window_B2HkvWD = const_cast<void *>(window);
    cache.blocks = const_cast<void *>(blocks);
    if (call.config.key_norm == INNERQ_KEY_NORM_PREFILL) cache.key_norm_BHkvD = const_cast<void *>(key_norm);
    return cache;
}

}  // namespace innerq::trt
