// One source for host and device: the arithmetic of SPEC section 4 as operations that round once, on every compiler.
// Host code must be built with -ffp-contract=off and without -ffast-math.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "innerq/layout.cuh"  // INNERQ_HD, kGroup

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

#ifdef __CUDA_ARCH__
#define INNERQ_UNROLL _Pragma("unroll")
#else
#define INNERQ_UNROLL
#endif

// A condition that decides seldom: what it guards is kept out of the way.
#define INNERQ_RARELY(condition) __builtin_expect(!!(condition), 0)

namespace innerq {

// IEEE fp32, round to nearest even, never contracted into a fused multiply-add.
namespace ieee {

INNERQ_HD inline float add(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

INNERQ_HD inline float subtract(float a, float b) { return add(a, -b); }

INNERQ_HD inline float multiply(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

INNERQ_HD inline float divide(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

INNERQ_HD inline float square_root(float a) {
#ifdef __CUDA_ARCH__
    return __fsqrt_rn(a);
#else
    return std::sqrt(a);
#endif
}

// 1 / a within two units of the last place, for divide_by; a is no extreme number.
INNERQ_HD inline float inverse_of(float a) {
#ifdef __CUDA_ARCH__
    float inverse;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(a));
    return inverse;
#else
    return 1.0f / a;
#endif
}

// a / b, given inverse = inverse_of(b), for b that is an fp16 number and quotients of no extreme exponent: no branch,
// three operations on the GPU. One exact residual corrects to the rounded quotient, because a quotient by 11 bits is
// never nearer than 2^-12 of its last place to the middle of two floats (Markstein, IBM J. Res. Dev. 34, 1990).
INNERQ_HD inline float divide_by(float a, float b, float inverse) {
#ifdef __CUDA_ARCH__
    const float quotient = __fmul_rn(a, inverse);
    return __fmaf_rn(__fmaf_rn(quotient, b, -a), -inverse, quotient);  // this way round -0 stays -0
#else
    (void)inverse;
    return a / b;
#endif
}

constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: the last place of numbers around it is 1

}  // namespace ieee

INNERQ_HD inline uint32_t float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

// Low halves of two words, the first one's below.
INNERQ_HD inline uint32_t low_halves(uint32_t low, uint32_t high) {
#ifdef __CUDA_ARCH__
    return __byte_perm(low, high, 0x5410);
#else
    return (low & 0xffffu) | (high << 16);
#endif
}

// Both halves of a word, as signed numbers, brought into low .. high.
INNERQ_HD inline uint32_t clamp_halves(uint32_t halves, int low, int high) {
#ifdef __CUDA_ARCH__
    if (low == 0) return __vimin_s16x2_relu(halves, 0x10001u * high);
    return __vmins2(__vmaxs2(halves, 0x10001u * low), 0x10001u * high);
#else
    const int a = static_cast<int16_t>(halves), b = static_cast<int16_t>(halves >> 16);
    const uint32_t c = a < low ? low : a > high ? high : a, d = b < low ? low : b > high ? high : b;
    return c | (d << 16);
#endif
}

INNERQ_HD inline float bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// fp32 -> fp16 bits, half to even, subnormals kept, overflow to infinity, NaN to 0x7fff (as CUDA).
INNERQ_HD inline uint16_t to_half(float value) {
#ifdef __CUDA_ARCH__
    return __half_as_ushort(__float2half_rn(value));
#else
    const uint32_t bits = float_bits(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fffu;
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the value in units of 2^-24, rounded half to even
        const float shifted = bits_float(magnitude) + 0.5f;
        return static_cast<uint16_t>(sign | (float_bits(shifted) - 0x3f000000u));
    }
    const uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
#endif
}

INNERQ_HD inline float from_half(uint16_t half) {
#ifdef __CUDA_ARCH__
    return __half2float(__ushort_as_half(half));
#else
    const uint32_t sign = (half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x0400u) return bits_float(sign | ((magnitude << 13) + 0x38000000u));
    return bits_float(sign | float_bits(static_cast<float>(magnitude) * 0x1p-24f));
#endif
}

// fp32 -> bf16 bits, half to even, NaN stays NaN.
INNERQ_HD inline uint16_t to_bfloat(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

INNERQ_HD inline float from_bfloat(uint16_t bfloat) { return bits_float(static_cast<uint32_t>(bfloat) << 16); }

// Activations: fp16 or bf16 bits.
INNERQ_HD inline float from_activation(uint16_t bits, bool bf16) { return bf16 ? from_bfloat(bits) : from_half(bits); }
INNERQ_HD inline uint16_t to_activation(float value, bool bf16) { return bf16 ? to_bfloat(value) : to_half(value); }

}  // namespace innerq
