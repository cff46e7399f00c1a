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

// Scale and range of one mode for one group: value = code * scale + zero, code in [lowest, highest].
struct GroupFit {
    float scale, zero, lowest, highest;
};

INNERQ_HD inline GroupFit fit_symmetric(const float (&x)[kGroup], int bits) {
    float largest = 0.0f;
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) largest = fmaxf(largest, fabsf(x[i]));
    const float highest = static_cast<float>((1 << (bits - 1)) - 1);
    return {from_half(to_half(ieee::divide(largest, highest))), 0.0f, -highest, highest};
}

INNERQ_HD inline GroupFit fit_symmetric_full(const float (&x)[kGroup], int bits) {
    float first_largest = x[0];
    INNERQ_UNROLL
    for (int i = 1; i < kGroup; ++i) first_largest = fabsf(x[i]) > fabsf(first_largest) ? x[i] : first_largest;
    const float steps = static_cast<float>(1 << (bits - 1));
    return {from_half(to_half(ieee::divide(-first_largest, steps))), 0.0f, -steps, steps - 1.0f};
}

// Scale and zero are never -0 here: which zero a minimum of signed zeros returns is nobody's promise.
INNERQ_HD inline GroupFit fit_asymmetric(const float (&x)[kGroup], int bits) {
    float low = x[0], high = x[0];
    INNERQ_UNROLL
    for (int i = 1; i < kGroup; ++i) low = fminf(low, x[i]), high = fmaxf(high, x[i]);
    const float highest = static_cast<float>((1 << bits) - 1);
    const float range = ieee::add(ieee::subtract(high, low), 0.0f);
    const float zero = ieee::add(from_half(to_half(low)), 0.0f);
    return {from_half(to_half(ieee::divide(range, highest))), zero, 0.0f, highest};
}

// Code of one value; 0 for a zero scale. NaN ends at `lowest`, so a code is always in range.
INNERQ_HD inline float code_of(float x, const GroupFit &fit) {
    if (fit.scale == 0.0f) return 0.0f;
    const float steps = ieee::round_even(ieee::divide(ieee::subtract(x, fit.zero), fit.scale));
    return fminf(fmaxf(steps, fit.lowest), fit.highest);
}

// Sum of absolute errors, added by halving: i + 16, i + 8, ... (SPEC section 4).
INNERQ_HD inline float error_sum(const float (&x)[kGroup], const GroupFit &fit) {
    float error[kGroup];
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) {
        const float value = ieee::add(ieee::multiply(code_of(x[i], fit), fit.scale), fit.zero);
        error[i] = fabsf(ieee::subtract(x[i], value));
    }
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
    bool asymmetric = mode == kAsymmetric;
    if (mode == kHybrid) {
        const GroupFit other = fit_asymmetric(x, bits);
        asymmetric = error_sum(x, other) < error_sum(x, fit);
        if (asymmetric) fit = other;
    }
    const float offset = asymmetric ? 0.0f : static_cast<float>(1 << (bits - 1));
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i) stored[i] = static_cast<uint32_t>(code_of(x[i], fit) + offset);
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
