// The formulas of SPEC section 4, bit for bit, on host and device. Who adds up what of a group: flush.cuh.
#pragma once

#include "innerq/portable.cuh"

namespace innerq {

enum Mode { kSymmetric = 0, kSymmetricFull = 1, kAsymmetric = 2, kHybrid = 3 };  // innerq_mode

// What a record stores of a group beside its codes: fp16 bits. `zero` is 0 where the mode (or the choice of hybrid)
// has none; the sign bit of a hybrid scale is set for asymmetric groups.
struct GroupScale {
    uint16_t scale, zero;
};

INNERQ_HD constexpr bool has_zeros(int mode) { return mode == kAsymmetric || mode == kHybrid; }

// Codes of a mode: lowest .. highest, stored as code + offset. `most`: what the number that fixes the scale is in codes.
struct CodeRange {
    float lowest, highest, offset, most, inverse_of_most;
};

INNERQ_HD inline CodeRange range_of(int mode, int bits) {
    const float half = static_cast<float>(1 << (bits - 1)), most = mode == kAsymmetric      ? 2.0f * half - 1.0f
                                                                   : mode == kSymmetricFull ? half
                                                                                            : half - 1.0f;
    const float inverse = ieee::inverse_of(most);
    if (mode == kAsymmetric) return {0.0f, most, 0.0f, most, inverse};
    return {-most, half - 1.0f, half, most, inverse};
}

// How one mode would store a group: value = code * scale + zero. A code is (x - zero) / divisor, rounded; the divisor is
// the scale, or where that is 0 a number that leaves code 0 alone.
struct GroupFit {
    float scale, zero, divisor, inverse;
};

// `length`: what `range.most` codes span.
INNERQ_HD inline GroupFit make_fit(float length, float zero, const CodeRange &range) {
    const float steps = ieee::divide_by(length, range.most, range.inverse_of_most);
    const float scale = from_half(to_half(steps)), divisor = scale == 0.0f ? 0x1p100f : scale;
    return {scale, zero, divisor, ieee::inverse_of(divisor)};
}

// `largest`: largest magnitude of the group; for symmetric_full minus the first number of largest magnitude.
INNERQ_HD inline GroupFit fit_symmetric(float largest, const CodeRange &range) {
    return make_fit(largest, 0.0f, range);
}

// Scale and zero are never -0 here: which zero a minimum of signed zeros returns is nobody's promise.
INNERQ_HD inline GroupFit fit_asymmetric(float low, float high, const CodeRange &range) {
    const float length = ieee::add(ieee::subtract(high, low), 0.0f);
    return make_fit(length, ieee::add(from_half(to_half(low)), 0.0f), range);
}

// A code plus offset plus kRounder: the stored code, not yet clamped, in the low half of the number's bits. Bounds are
// integers: clamping after rounding gives what clamping before it gives.
INNERQ_HD inline float raised_code(float x, const float divisor, float inverse, const CodeRange &range) {
    return ieee::add(ieee::divide_by(x, divisor, inverse), range.offset + ieee::kRounder);
}

// The same for x with 11 bits at most, as activations have: a quotient of 11 bits by 11 is a half of an odd number or
// 2^-12 away from all of them, so it may be rounded to multiples of 2^-14 first, which mends what the inverse lacks.
INNERQ_HD inline float raised_code_of_short(float x, const float divisor, float inverse, const CodeRange &range) {
#ifdef __CUDA_ARCH__
    constexpr float kSnap = 768.0f;  // the last place of numbers around it is 2^-14
    return ieee::add(__fmaf_rn(x, inverse, kSnap), range.offset + (ieee::kRounder - kSnap));
#else
    return raised_code(x, divisor, inverse, range);
#endif
}

INNERQ_HD inline float clamped(float raised, const CodeRange &range) {
    const float zero = range.offset + ieee::kRounder;
    return fminf(fmaxf(raised, zero + range.lowest), zero + range.highest);
}

INNERQ_HD inline float error_of(float x, float raised, float scale, float zero, const CodeRange &range) {
    const float code = ieee::subtract(raised, range.offset + ieee::kRounder);
    return fabsf(ieee::subtract(x, ieee::add(ieee::multiply(code, scale), zero)));
}

INNERQ_HD inline GroupScale scale_of(float scale, float zero, bool asymmetric, int mode) {
    const uint16_t sign = mode == kHybrid && asymmetric ? 0x8000u : 0u;
    return {static_cast<uint16_t>(to_half(scale) | sign), to_half(zero)};
}

// Whether the group's codes count from its zero: always, never, or by the sign of a hybrid scale.
INNERQ_HD inline bool is_asymmetric(GroupScale group, int mode) {
    return mode == kAsymmetric || (mode == kHybrid && (group.scale & 0x8000u) != 0);
}

// Value of one stored code, fp32.
INNERQ_HD inline float dequantise(int stored, GroupScale group, int bits, int mode) {
    if (is_asymmetric(group, mode)) {
        const float scale = from_half(group.scale & 0x7fffu);
        return ieee::add(ieee::multiply(static_cast<float>(stored), scale), from_half(group.zero));
    }
    return ieee::multiply(static_cast<float>(stored - (1 << (bits - 1))), from_half(group.scale));
}

// lambda of SPEC section 5 from the largest magnitude of a channel: fp16 bits, never 0.
INNERQ_HD inline uint16_t lambda_of(float largest) {
    const uint16_t root = to_half(ieee::square_root(largest));
    return root == 0 ? to_half(1.0f) : root;
}

}  // namespace innerq
