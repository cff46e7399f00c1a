// Which of the kernels that are compiled for presets a cache takes.
#pragma once

#include "innerq.h"
#include "innerq/kinds.cuh"

namespace innerq {

template <class Launch>
innerq_status by_any(const CacheParams &cache, const Launch &launch) {
    const bool chooses = cache.key_mode == kHybrid || cache.value_mode == kHybrid;
    return chooses ? launch.template by<Any<true>>() : launch.template by<Any<false>>();
}

// launch.by<Kind>() with the first of the kinds that is compiled for the cache, else with one for all.
template <class Launch, class Kind, class... Kinds>
innerq_status by_kind(const CacheParams &cache, const Launch &launch) {
    if (Kind::is(cache)) return launch.template by<Kind>();
    if constexpr (sizeof...(Kinds) != 0) {
        return by_kind<Launch, Kinds...>(cache, launch);
    } else {
        return by_any(cache, launch);
    }
}

template <bool kBf16, class Launch>
innerq_status by_preset(const CacheParams &cache, const Launch &launch) {
    constexpr int kFull = kSymmetricFull, kPlain = kSymmetric;
    return by_kind<Launch, Compiled<3, kFull, 3, kFull, kBf16>,  // balanced
                   Compiled<3, kFull, 2, kFull, kBf16>,          // compact
                   Compiled<4, kFull, 4, kFull, kBf16>,          // quality
                   Compiled<3, kPlain, 3, kPlain, kBf16>,        // base
                   Compiled<3, kPlain, 2, kPlain, kBf16>,        // small
                   Compiled<3, kPlain, 2, kHybrid, kBf16>>(cache, launch);
}

template <class Launch>
innerq_status by_preset_of(const CacheParams &cache, const Launch &launch) {
    return cache.bf16 ? by_preset<true>(cache, launch) : by_preset<false>(cache, launch);
}

}  // namespace innerq
