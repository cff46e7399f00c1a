// Values of records in shared memory times the weights of their tokens: out += V^T weights.
//
// Channels on M, query rows on N (m16n8k16). A stored code is offset; symmetric modes take the offset back as the initial
// accumulator. In `hybrid` a group of either mode is
//     |s| (code - offset / 2)  +  z - (offset / 2) s          (symmetric: z = 0, s > 0; asymmetric: s < 0)
// so half the offset is the initial accumulator, and z and s, as they stand in the record, meet the sum of weights in
// products of their own: add_zeros.
#pragma once

#include "innerq/attend_codes.cuh"
#include "innerq/attend_plan.cuh"
#include "innerq/attend_softmax.cuh"

namespace innerq::attend {

// Bytes from the first of kRecords records that share a product to the one whose columns are this lane's (2q, 2q + 1).
template <int kRecords>
__device__ __forceinline__ int own_record(const RecordLayout &layout, int lane) {
    return record_of_column<kRecords>(2 * (lane & 3)) * layout.bytes;
}

// What the initial accumulator takes off a code.
template <class Codes>
__device__ constexpr int accumulated_offset(int bits) {
    return Codes::zeros_by_product ? code_offset(bits) / 2 : Codes::offset_in_accumulator ? code_offset(bits) : 0;
}

inline constexpr int kSumExponent = 6;  // sums of weights meet zeros in units of 2^6: they stay below 2^12

// Operands that depend on neither codes nor weights. zero is 0; the compiler, which cannot know, keeps them in registers
// instead of making them up in every step.
template <int kTiles, class Codes>
struct ValueConstants {
    uint32_t offset[8];  // A operand of the sum of weights: -accumulated_offset, or 1, in each class; twice each
    uint32_t one;        // half2
    // Of add_zeros: lanes of q = 0, 1 hold zeros, the others scales; those of q = 0, 2 meet the sum of weights as fp16 has
    // it, the others what fp16 lacks. The sums come from rows 2q and 2q + 1 of a transpose: from lanes of g / 2 = q.
    int from;          // where this lane's numbers begin in a record
    float sum_factor;  // from total to the sum in units of 2^kSumExponent, or to -offset / 2 times that
    uint32_t rounded;  // bits of a float that fp16 keeps, where this lane gives the rest; else 0

    __device__ __forceinline__ ValueConstants(const Codes &codes, const RecordLayout &layout, int lane, int zero) {
        const int bits = codes.bits(), taken = accumulated_offset<Codes>(bits);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            offset[i] = keep(constant_code(bits, i / 2, taken == 0 ? 1 : taken, taken != 0) + zero, lane);
        one = keep(0x3c003c00u + zero, lane);
        if (!Codes::zeros_by_product) return;
        const int kind = lane >> 3;
        const float unit = power_of_two(unit_exponent(bits) - kSumExponent);
        from = keep((lane & 2 ? layout.value_scales : layout.value_zeros) + 8 * kTiles * (lane >> 2), lane);
        sum_factor = keep(kind & 2 ? unit : -unit / static_cast<float>(taken), lane);
        rounded = keep(kind & 1 ? 0xffffe000u : 0u, lane);
    }

  private:
    template <class T>
    static __device__ __forceinline__ T keep(T x, int lane) {
        return __shfl_sync(0xffffffffu, x, lane);
    }
};

// A product that kRecords records share: weights of their tokens in columns of their own.
template <int kRecords, int kBits, int kTiles, class Codes>
struct ValueProduct {
    static constexpr int kOffset = accumulated_offset<Codes>(kBits);
    uint32_t words[kRecords][kTiles * kBits];
    uint32_t operands[kRecords][3][2];  // classes 0 and 1; 2 and 3; 2 and 3 of the second 16-row tile
    float total[4];                     // -kOffset times the sum of weights, or, where kOffset is 0, the sum

    __device__ __forceinline__ void load(const char *records, const RecordLayout &layout, int lane) {
#pragma unroll
        for (int r = 0; r < kRecords; ++r)
            load_words<kTiles, kBits>(records + r * layout.bytes + layout.value_codes, lane, words[r]);
    }

    // weights[cls]: tokens 8 cls + 2q.. raised by operand_exponent(bits, cls, 0), in the columns of all records.
    __device__ __forceinline__ void weigh(const ValueConstants<kTiles, Codes> &constants, const uint32_t *weights,
                                          int lane) {
        const uint32_t (&a)[8] = constants.offset;
        const float none[4] = {0.f, 0.f, 0.f, 0.f};
        mma(total, a[0], a[1], a[2], a[3], weights[0], weights[1], none);
        mma(total, a[4], a[5], a[6], a[7], weights[2], weights[3], total);
        uint32_t second[2] = {weights[2], weights[3]};
        if (kBits == 3) {  // a copy: operands are pairs of registers
            second[0] = as_u32(__hmul2(as_half2(weights[2]), as_half2(constants.one)));
            second[1] = as_u32(__hmul2(as_half2(weights[3]), __float2half2_rn(0.125f)));
        }
#pragma unroll
        for (int r = 0; r < kRecords; ++r) {
            const bool mine = record_of_column<kRecords>(lane >> 2) == r;
#pragma unroll
            for (int i = 0; i < 6; ++i) operands[r][i / 2][i % 2] = !mine ? 0u : i < 4 ? weights[i] : second[i - 4];
        }
    }

    // Tile t: acc[m] of channels 32 t + 4 g + 2 m and the next.
    __device__ __forceinline__ void multiply(int t, float (&acc)[2][4]) const {
        uint32_t a[kRecords][16];
#pragma unroll
        for (int r = 0; r < kRecords; ++r) unpack_tile<kBits>(words[r] + kBits * t, a[r]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
            for (int i = 0; i < 4; ++i) acc[m][i] = kOffset != 0 ? total[i] : 0.f;
#pragma unroll
            for (int r = 0; r < kRecords; ++r) {
                const uint32_t (&p)[2] = operands[r][0], (&q)[2] = operands[r][kBits == 3 && m == 1 ? 2 : 1];
                mma(acc[m], a[r][2 * m], a[r][2 * m + 1], a[r][4 + 2 * m], a[r][5 + 2 * m], p[0], p[1], acc[m]);
                mma(acc[m], a[r][8 + 2 * m], a[r][9 + 2 * m], a[r][12 + 2 * m], a[r][13 + 2 * m], q[0], q[1], acc[m]);
            }
        }
    }

    // The rest, once the weights are certain. first: tile 0, multiplied.
    __device__ __forceinline__ void add(const Codes &codes, const char *records, const RecordLayout &layout, int lane,
                                        const float (&first)[2][4], Softmax<kTiles> &state) const {
        constexpr float kBack = static_cast<float>(1 << unit_exponent(kBits)) / (kOffset != 0 ? -kOffset : 1);
#pragma unroll
        for (int e = 0; e < 2; ++e) state.sum[e] = fmaf(total[e], kBack, state.sum[e]);
        uint32_t scales[2 * kTiles], zeros[2 * kTiles] = {};
        const char *own = records + own_record<kRecords>(layout, lane);
        load_scales<kTiles>(own + layout.value_scales, lane >> 2, scales);
        if (kOffset == 0 && codes.zero() != kNoZero) load_scales<kTiles>(own + layout.value_zeros, lane >> 2, zeros);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            float acc[2][4];
            if (t > 0) multiply(t, acc);
#pragma unroll
            for (int m = 0; m < 2; ++m)
                add_scaled(codes, t, m, t > 0 ? acc[m] : first[m], scales[2 * t + m], zeros[2 * t + m], state);
        }
    }

  private:
    __device__ __forceinline__ void add_scaled(const Codes &codes, int t, int m, const float *acc, uint32_t scales,
                                               uint32_t zeros, Softmax<kTiles> &state) const {
        const float2 scale2 = unpack_half2(scales), zero2 = unpack_half2(zeros);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float scale = h ? scale2.y : scale2.x, zero = h ? zero2.y : zero2.x;
            if (Codes::zeros_by_product) scale = fabsf(scale);
            if (kOffset == 0) affine(codes.zero(), code_offset(kBits), scale, zero);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                float &out = state.out[t][2 * m + h][e];
                out = fmaf(scale, acc[2 * h + e], out);
                if (kOffset == 0) out = fmaf(zero, total[e], out);
            }
        }
    }
};

// out += (z - offset / 2 s) times the sum of weights, for kRecords records, kShare of which share a product. totals[i]: of
// product i. One product serves two records: their numbers are columns 0..7 and 8..15 of A. A register holds those of two
// neighbouring channels, side by side along K; B has the sums for one of them, and 0 for the other.
template <int kRecords, int kShare, int kBits, int kTiles, class Codes>
__device__ __forceinline__ void add_zeros(const ValueConstants<kTiles, Codes> &constants, const char *records,
                                          const RecordLayout &layout, int lane, const float (&totals)[2][4],
                                          Softmax<kTiles> &state) {
    uint32_t b[2][2] = {}, a[2][2 * kTiles] = {};
#pragma unroll
    for (int r = 0; r < kRecords; ++r) {
        float sums[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            sums[e] = totals[kShare == 1 ? r : 0][e] * constants.sum_factor;
            sums[e] -= __uint_as_float(__float_as_uint(sums[e]) & constants.rounded);
        }
        const uint32_t both = transpose8x8(truncate_half2(sums[0], sums[1]));
        const bool mine = kShare == 1 || record_of_column<kShare>(lane >> 2) == r;
        b[0][r] = mine ? both & 0x0000ffffu : 0u, b[1][r] = mine ? both & 0xffff0000u : 0u;
        load_pairs<kTiles>(records + r * layout.bytes + constants.from, a[r]);
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float acc[4] = {};
            mma(acc, a[0][2 * t], a[0][2 * t + 1], a[1][2 * t], a[1][2 * t + 1], b[i][0], b[i][1], acc);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                float &out = state.out[t][i + j / 2 * 2][j % 2];
                out = fmaf(acc[j], 1.f / (1 << (unit_exponent(kBits) - kSumExponent)), out);
            }
        }
}

}  // namespace innerq::attend
