// Query rows as B operands, lambda folded in, for the quantised part.
#pragma once

#include "attend_codes.cuh"
#include "attend_plan.cuh"

namespace innerq::attend {

// 16 bytes of activations, 8 neighbouring numbers, as fp16; zeros where the row is none.
__device__ __forceinline__ uint4 load_query8(const char *row, int channel, bool bf16) {
    if (row == nullptr) return {0u, 0u, 0u, 0u};
    return to_half8(__ldg(reinterpret_cast<const uint4 *>(row + 2 * channel)), bf16);
}

// A query row of lambda q, brought to the magnitude 2^7 .. 2^8 by a power of two and raised per class.
template <int kTiles, class Codes>
struct Query {
    uint32_t operand[kTiles][4];        // class 3: of the first 16-row tile
    uint32_t other[kTiles];             // class 3 of the second 16-row tile
    float first[kTiles][4];             // initial accumulator: offset times the sum of q, as a C fragment; or,
    float sum[kTiles][2];               //   for zeros, the sum of q
    float factor[2];                    // accumulated sum -> log2 of a weight

    // row: this lane's query row (g), or nullptr; lambda: fp16 [D] or nullptr for 1; log2_scale: of the softmax, in log2.
    __device__ __forceinline__ void load(const Codes &codes, const char *row, const uint16_t *lambda, bool bf16,
                                         float log2_scale, int lane);
};

__device__ __forceinline__ float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }

template <int kTiles>
__device__ __forceinline__ void scaled_query(const char *row, const uint16_t *lambda, bool bf16, int quad,
                                             float (&q)[kTiles][8]) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const int channel = 32 * t + 8 * quad;
        const uint4 x = load_query8(row, channel, bf16);
        const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float2 v = unpack_half2(words[w]);
            q[t][2 * w] = v.x, q[t][2 * w + 1] = v.y;
        }
        if (lambda == nullptr) continue;
        const uint4 l = __ldg(reinterpret_cast<const uint4 *>(lambda + channel));
        const uint32_t factors[4] = {l.x, l.y, l.z, l.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const float2 v = unpack_half2(factors[w]);
            q[t][2 * w] *= v.x, q[t][2 * w + 1] *= v.y;
        }
    }
}

template <int kTiles, class Codes>
__device__ __forceinline__ void Query<kTiles, Codes>::load(const Codes &codes, const char *row, const uint16_t *lambda,
                                                           bool bf16, float log2_scale, int lane) {
    const int quad = lane & 3, bits = codes.bits();
    float q[kTiles][8], largest = 0.f;
    scaled_query<kTiles>(row, lambda, bf16, quad, q);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int c = 0; c < 8; ++c) largest = fmaxf(largest, fabsf(q[t][c]));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const int exponent = clamp_int((__float_as_int(largest) >> 23) - 127, -100, 100);
    const float bring = power_of_two(7 - exponent);
    const float back = power_of_two(exponent - 7 + unit_exponent(bits)) * log2_scale;  // of row g; wanted: rows 2q + e
#pragma unroll
    for (int e = 0; e < 2; ++e) factor[e] = __shfl_sync(0xffffffffu, back, 4 * (2 * quad + e));
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int cls = 0; cls < 4; ++cls) {
            const float raise = bring * power_of_two(operand_exponent(bits, cls, 0));
            operand[t][cls] = pack_half2(q[t][2 * cls] * raise, q[t][2 * cls + 1] * raise);
            if (cls == 3) {
                const float raise_other = bring * power_of_two(operand_exponent(bits, 3, 1));
                other[t] = pack_half2(q[t][6] * raise_other, q[t][7] * raise_other);
            }
        }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const float zero[4] = {0.f, 0.f, 0.f, 0.f};
        uint32_t a[4];
#pragma unroll
        for (int cls = 0; cls < 4; ++cls)
            a[cls] = Codes::offset_in_accumulator ? constant_code(bits, cls, code_offset(bits), true)
                                                  : constant_code(bits, cls, 1, false);
        mma(first[t], a[0], a[0], a[1], a[1], operand[t][0], operand[t][1], zero);
        mma(first[t], a[2], a[2], a[3], a[3], operand[t][2], operand[t][3], first[t]);
        sum[t][0] = first[t][0], sum[t][1] = first[t][1];
    }
}

}  // namespace innerq::attend
