// One group of 32 numbers to codes and back: SPEC section 4, bit for bit, on host and device.
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

// How one mode would store a group: value = code * scale + zero, code in [lowest, highest]. A scale of 0 leaves code 0
// alone, with a divisor that harms nothing.
struct GroupFit {
    float scale, zero, lowest, highest, divisor, inverse;
};

INNERQ_HD inline GroupFit make_fit(float scale, float zero, float lowest, float highest) {
    const float rounded = from_half(to_half(scale));
    if (rounded == 0.0f) return {rounded, zero, 0.0f, 0.0f, 1.0f, 1.0f};
    return {rounded, zero, lowest, highest, rounded, ieee::reciprocal(rounded)};
}

// Reduces x[0..31] in a tree of neighbours: `join` sees the lower index on its left.
template <class Join>
INNERQ_HD inline float reduce(const float (&x)[kGroup], const Join &join) {
    float y[kGroup / 2];
    INNERQ_UNROLL
    for (int i = 0; i < kGroup / 2; ++i) y[i] = join(x[2 * i], x[2 * i + 1]);
    INNERQ_UNROLL
    for (int step = 1; step < 5; ++step) {
        INNERQ_UNROLL
        for (int i = 0; i < kGroup / 4; ++i)
            if (i < kGroup >> (step + 1)) y[i] = join(y[2 * i], y[2 * i + 1]);
    }
    return y[0];
}

INNERQ_HD inline GroupFit fit_symmetric(const float (&x)[kGroup], int bits) {
    const float largest = reduce(x, [](float a, float b) { return fmaxf(fabsf(a), fabsf(b)); });
    const float highest = static_cast<float>((1 << (bits - 1)) - 1);
    return make_fit(ieee::divide(largest, highest), 0.0f, -highest, highest);
}

INNERQ_HD inline GroupFit fit_symmetric_full(const float (&x)[kGroup], int bits) {
    const float first_largest = reduce(x, [](float a, float b) { return fabsf(b) > fabsf(a) ? b : a; });
    const float steps = static_cast<float>(1 << (bits - 1));
    return make_fit(ieee::divide(-first_largest, steps), 0.0f, -steps, steps - 1.0f);
}

// Scale and zero are never -0 here: which zero a minimum of signed zeros returns is nobody's promise.
INNERQ_HD inline GroupFit fit_asymmetric(const float (&x)[kGroup], int bits) {
    const float low = reduce(x, [](float a, float b) { return fminf(a, b); });
    const float high = reduce(x, [](float a, float b) { return fmaxf(a, b); });
    const float highest = static_cast<float>((1 << bits) - 1);
    const float range = ieee::add(ieee::subtract(high, low), 0.0f);
    const float zero = ieee::add(from_half(to_half(low)), 0.0f);
    return make_fit(ieee::divide(range, highest), zero, 0.0f, highest);
}

// Codes of a group. NaN ends at `lowest`, so a code is always in range. Bounds are integers: clamping before rounding
// gives what clamping after it gives.
INNERQ_HD inline void find_codes(const float (&x)[kGroup], const GroupFit &fit, float (&code)[kGroup]) {
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) {
        const float steps = ieee::divide_by(ieee::subtract(x[i], fit.zero), fit.divisor, fit.inverse);
        code[i] = ieee::round_even(fminf(fmaxf(steps, fit.lowest), fit.highest));
    }
}

// Sum of absolute errors, added by halving: i + 16, i + 8, ... (SPEC section 4).
INNERQ_HD inline float error_sum(const float (&x)[kGroup], const GroupFit &fit, const float (&code)[kGroup]) {
    float error[kGroup];
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i)
        error[i] = fabsf(ieee::subtract(x[i], ieee::add(ieee::multiply(code[i], fit.scale), fit.zero)));
    INNERQ_UNROLL
    for (int step = 0; step < 5; ++step) {
        INNERQ_UNROLL
        for (int i = 0; i < kGroup / 2; ++i)
            if (i < 16 >> step) error[i] = ieee::add(error[i], error[i + (16 >> step)]);
    }
    return error[0];
}

// Codes and scale of x. `stored[i]` is code + 2^(bits-1) for symmetric groups and code for asymmetric ones.
INNERQ_HD inline GroupScale quantise_group(const float (&x)[kGroup], int bits, int mode, uint32_t (&stored)[kGroup]) {
    GroupFit fit = mode == kSymmetricFull ? fit_symmetric_full(x, bits)
                   : mode == kAsymmetric  ? fit_asymmetric(x, bits)
                                          : fit_symmetric(x, bits);
    float code[kGroup];
    find_codes(x, fit, code);
    bool asymmetric = mode == kAsymmetric;
    if (mode == kHybrid) {
        const GroupFit other = fit_asymmetric(x, bits);
        float other_code[kGroup];
        find_codes(x, other, other_code);
        asymmetric = error_sum(x, other, other_code) < error_sum(x, fit, code);
        INNERQ_UNROLL
        for (int i = 0; i < kGroup; ++i) code[i] = asymmetric ? other_code[i] : code[i];
        fit.scale = asymmetric ? other.scale : fit.scale;
        fit.zero = asymmetric ? other.zero : fit.zero;
    }
    const float offset = asymmetric ? 0.0f : static_cast<float>(1 << (bits - 1));
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) stored[i] = static_cast<uint32_t>(code[i] + offset);
    const uint16_t sign = mode == kHybrid && asymmetric ? 0x8000u : 0u;
    return {static_cast<uint16_t>(to_half(fit.scale) | sign), to_half(fit.zero)};
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
