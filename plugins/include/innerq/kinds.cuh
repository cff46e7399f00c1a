// What of a cache a kernel knows when it is compiled.
#pragma once

#include "innerq/record.cuh"

namespace innerq {

// Bits and modes that a kernel is compiled for.
template <int kKeyBits, int kKeyMode, int kValueBits, int kValueMode, bool kBf16>
struct Compiled {
    static constexpr bool kChooses = kKeyMode == kHybrid || kValueMode == kHybrid;

    static bool is(const CacheParams &cache) {
        return cache.key_bits == kKeyBits && cache.key_mode == kKeyMode && cache.value_bits == kValueBits &&
               cache.value_mode == kValueMode && cache.bf16 == kBf16;
    }
    template <int Part>
    INNERQ_HD static TileParts parts_of(const CacheParams &cache, uint8_t *record) {
        TileParts parts = innerq::parts_of(cache, record, Part);
        parts.bits = Part == kKeys ? kKeyBits : kValueBits;
        parts.mode = Part == kKeys ? kKeyMode : kValueMode;
        if (!has_zeros(parts.mode)) parts.zeros = nullptr;
        return parts;
    }
    INNERQ_HD static bool is_bf16(const CacheParams &) { return kBf16; }
};

// Whatever the parameters say; `kMayChoose`: hybrid too.
template <bool kMayChoose>
struct Any {
    static constexpr bool kChooses = kMayChoose;

    template <int Part>
    INNERQ_HD static TileParts parts_of(const CacheParams &cache, uint8_t *record) {
        return innerq::parts_of(cache, record, Part);
    }
    INNERQ_HD static bool is_bf16(const CacheParams &cache) { return cache.bf16; }
};

}  // namespace innerq
