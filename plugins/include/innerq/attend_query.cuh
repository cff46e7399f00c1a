// Query rows as B operands, lambda folded in, for the quantised part.
#pragma once

#include "innerq/attend_codes.cuh"
#include "innerq/attend_plan.cuh"

namespace innerq::attend {

__device__ __forceinline__ float power_of_two(int exponent) { return __int_as_float((exponent + 127) << 23); }

// This lane's channels of its query row (g), as they are, and of lambda. Loaded early: memory is far.
template <int kTiles>
struct RawQuery {
    uint4 query[kTiles], lambda[kTiles];

    // row: fp16 or bf16 [D]; lambda_row: fp16 [D] or nullptr for 1.
    __device__ __forceinline__ void load(const uint16_t *row, const uint16_t *lambda_row, int quad) {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) query[t] = __ldg(reinterpret_cast<const uint4 *>(row + 32 * t + 8 * quad));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            lambda[t] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u};
            if (lambda_row != nullptr)
                lambda[t] = __ldg(reinterpret_cast<const uint4 *>(lambda_row + 32 * t + 8 * quad));
        }
    }

    // From bf16.
    __device__ __forceinline__ void convert() {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) query[t] = to_half8(query[t], true);
    }
};

// A query row of lambda q, brought below 2^8, but not far, by a power of two, and raised per class. kShare records share
// the 8 columns of a product: those of record r hold the query rows, and 0 while another record's codes pass.
template <int kTiles, class Codes, int kShare>
struct Query {
    uint32_t operand[kShare][kTiles][4];  // class 3: of the first 16-row tile
    uint32_t other[kShare][kTiles][2];  // class 2 again, for operands are pairs, and class 3, of the second 16-row tile
    float first[kTiles][4];             // initial accumulator: offset times the sum of q, as a C fragment; or,
    float sum[kTiles][2];               //   for zeros, the sum of q
    float factor[2];                    // accumulated sum -> log2 of a weight

    // log2_scale: of the softmax, in log2. zero: 0, which the compiler cannot know.
    __device__ __forceinline__ void make(const Codes &codes, const RawQuery<kTiles> &raw, float log2_scale, int lane,
                                         int zero) {
        const int quad = lane & 3, bits = codes.bits();
        const int exponent = exponent_bound(raw.query) + exponent_bound(raw.lambda);  // |lambda q| < 2^exponent
        const float bring = power_of_two(8 - exponent);
        const float back = power_of_two(exponent - 8 + unit_exponent(bits)) * log2_scale;  // of row g; wanted: 2q + e
#pragma unroll
        for (int e = 0; e < 2; ++e) factor[e] = __shfl_sync(0xffffffffu, back, 4 * (2 * quad + e));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            const uint32_t words[4] = {raw.query[t].x, raw.query[t].y, raw.query[t].z, raw.query[t].w};
            const uint32_t factors[4] = {raw.lambda[t].x, raw.lambda[t].y, raw.lambda[t].z, raw.lambda[t].w};
            uint32_t full[4];
#pragma unroll
            for (int cls = 0; cls < 4; ++cls) {
                const float2 q = unpack_half2(words[cls]), l = unpack_half2(factors[cls]);
                const half2 x = as_half2(pack_half2(q.x * l.x * bring, q.y * l.y * bring));
                full[cls] = raise(x, operand_exponent(bits, cls, 0));
                const uint32_t full_other = cls == 3 ? raise(x, operand_exponent(bits, 3, 1)) : 0u;
#pragma unroll
                for (int r = 0; r < kShare; ++r) {
                    const bool own = record_of_column<kShare>(lane >> 2) == r;
                    operand[r][t][cls] = own ? full[cls] : 0u;
                    if (cls == 2) other[r][t][0] = operand[r][t][2] + zero;
                    if (cls == 3) other[r][t][1] = own ? full_other : 0u;
                }
            }
            sum_up(bits, t, full);
        }
    }

  private:
    static __device__ __forceinline__ uint32_t raise(half2 x, int exponent) {
        return exponent == 0 ? as_u32(x) : as_u32(__hmul2(x, __float2half2_rn(static_cast<float>(1 << exponent))));
    }

    // Every number of the query row, in this lane and the three beside it, is below 2^result.
    static __device__ __forceinline__ int exponent_bound(const uint4 (&x)[kTiles]) {
        half2 largest = as_half2(0u);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            largest = __hmax2(__hmax2(largest, __habs2(as_half2(x[t].x))), __habs2(as_half2(x[t].y)));
            largest = __hmax2(__hmax2(largest, __habs2(as_half2(x[t].z))), __habs2(as_half2(x[t].w)));
        }
        uint32_t bits = as_u32(largest);
        bits = max(bits & 0xffffu, bits >> 16);
        bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 1));
        bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, 2));
        return static_cast<int>(bits >> 10) - 14;
    }

    __device__ __forceinline__ void sum_up(int bits, int t, const uint32_t (&full)[4]) {
        const float zero[4] = {0.f, 0.f, 0.f, 0.f};
        uint32_t a[4];
#pragma unroll
        for (int cls = 0; cls < 4; ++cls)
            a[cls] = Codes::offset_in_accumulator ? constant_code(bits, cls, code_offset(bits), true)
                                                  : constant_code(bits, cls, 1, false);
        mma(first[t], a[0], a[0], a[1], a[1], full[0], full[1], zero);
        mma(first[t], a[2], a[2], a[3], a[3], full[2], full[3], first[t]);
        sum[t][0] = first[t][0], sum[t][1] = first[t][1];
    }
};

}  // namespace innerq::attend
