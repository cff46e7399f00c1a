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

// How one mode would store a group: value = code * scale + zero, code in [lowest, highest]. A scale of 0 leaves code 0
// alone, with a divisor that harms nothing.
struct GroupFit {
    float scale, zero, lowest, highest, divisor, inverse;
};

INNERQ_HD inline GroupFit make_fit(float scale, float zero, float lowest, float highest) {
    const float rounded = from_half(to_half(scale));
    if (rounded == 0.0f) return {rounded, zero, 0.0f, 0.0f, 1.0f, 1.0f};
    return {rounded, zero, lowest, highest, rounded, ieee::inverse_of(rounded)};
}

// length / count, exactly where it does not vanish in fp16.
INNERQ_HD inline float steps_of(float length, float count) {
    return ieee::divide_by(length, count, ieee::inverse_of(count));
}

// `largest`: largest magnitude of the group.
INNERQ_HD inline GroupFit fit_symmetric(float largest, int bits) {
    const float highest = static_cast<float>((1 << (bits - 1)) - 1);
    return make_fit(steps_of(largest, highest), 0.0f, -highest, highest);
}

// `first_largest`: the first number of largest magnitude.
INNERQ_HD inline GroupFit fit_symmetric_full(float first_largest, int bits) {
    const float steps = static_cast<float>(1 << (bits - 1));
    return make_fit(steps_of(-first_largest, steps), 0.0f, -steps, steps - 1.0f);
}

// Scale and zero are never -0 here: which zero a minimum of signed zeros returns is nobody's promise.
INNERQ_HD inline GroupFit fit_asymmetric(float low, float high, int bits) {
    const float highest = static_cast<float>((1 << bits) - 1);
    const float range = ieee::add(ieee::subtract(high, low), 0.0f);
    const float zero = ieee::add(from_half(to_half(low)), 0.0f);
    return make_fit(steps_of(range, highest), zero, 0.0f, highest);
}

// NaN ends at `lowest`, so a code is always in range. Bounds are integers: clamping before rounding gives what
// clamping after it gives.
INNERQ_HD inline float code_of(float x, const GroupFit &fit) {
    const float steps = ieee::divide_by(ieee::subtract(x, fit.zero), fit.divisor, fit.inverse);
    return ieee::round_even(fminf(fmaxf(steps, fit.lowest), fit.highest));
}

INNERQ_HD inline float error_of(float x, float code, const GroupFit &fit) {
    return fabsf(ieee::subtract(x, ieee::add(ieee::multiply(code, fit.scale), fit.zero)));
}

// The byte a code is stored as: code + 2^(bits-1) for symmetric groups, the code itself for asymmetric ones.
INNERQ_HD inline uint8_t stored_code(float code, bool asymmetric, int bits) {
    const float offset = asymmetric ? 0.0f : static_cast<float>(1 << (bits - 1));
    return static_cast<uint8_t>(float_bits(ieee::add(code, offset + ieee::kRounder)));
}

INNERQ_HD inline GroupScale scale_of(const GroupFit &fit, bool asymmetric, int mode) {
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
