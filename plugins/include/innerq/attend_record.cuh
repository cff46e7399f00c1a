// Attention over records in shared memory: scores = K q, weights = softmax, out += V^T weights.
//
// Both products have tokens or channels on M and query rows on N (m16n8k16). A scale multiplies the finished sum of its
// group of 32, in fp32. A stored code is offset; symmetric modes take the offset back as the initial accumulator.
#pragma once

#include "innerq/attend_query.cuh"
#include "innerq/attend_softmax.cuh"

namespace innerq::attend {

// scores[sub][e] of one record: token 8 sub + g, query row 2q + e, in units of 2^-unit_exponent times Query::factor.
template <int kBits, int kTiles, class Codes>
__device__ __forceinline__ void key_scores(const Codes &codes, const Query<kTiles, Codes> &query, const char *record,
                                           const RecordLayout &layout, int lane, float (&scores)[4][2]) {
    uint32_t words[kTiles * kBits], scales[2 * kTiles], zeros[2 * kTiles];
    load_words<kTiles, kBits>(record + layout.key_codes, lane, words);
    load_scales<kTiles>(record + layout.key_scales, lane >> 2, scales);
    if (!Codes::offset_in_accumulator && codes.zero() != kNoZero)
        load_scales<kTiles>(record + layout.key_zeros, lane >> 2, zeros);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        uint32_t a[16];
        unpack_tile<kBits>(words + kBits * t, a);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            const float none[4] = {0.f, 0.f, 0.f, 0.f};
            float acc[4];
            mma(acc, a[2 * m], a[2 * m + 1], a[4 + 2 * m], a[5 + 2 * m], query.operand[t][0], query.operand[t][1],
                Codes::offset_in_accumulator ? query.first[t] : none);
            mma(acc, a[8 + 2 * m], a[9 + 2 * m], a[12 + 2 * m], a[13 + 2 * m], query.operand[t][2],
                kBits == 3 && m == 1 ? query.other[t] : query.operand[t][3], acc);
            const float2 scale2 = unpack_half2(scales[2 * t + m]);
            const float2 zero2 = Codes::offset_in_accumulator || codes.zero() == kNoZero
                                     ? float2{0.f, 0.f}
                                     : unpack_half2(zeros[2 * t + m]);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float scale = h ? scale2.y : scale2.x, zero = h ? zero2.y : zero2.x;
                if (!Codes::offset_in_accumulator) affine(codes.zero(), code_offset(kBits), scale, zero);
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &score = scores[2 * m + h][e];
                    score = t == 0 ? scale * acc[2 * h + e] : fmaf(scale, acc[2 * h + e], score);
                    if (!Codes::offset_in_accumulator) score = fmaf(zero, query.sum[t][e], score);
                }
            }
        }
    }
}

// out += values^T weights, sum += weights. weights[cls]: tokens 8 cls + 2q.. raised by operand_exponent(bits, cls, 0).
template <int kBits, int kTiles, class Codes>
__device__ __forceinline__ void add_values(const Codes &codes, const char *record, const RecordLayout &layout, int lane,
                                           const uint32_t *weights, Softmax<kTiles> &state) {
    uint32_t words[kTiles * kBits], scales[2 * kTiles], zeros[2 * kTiles];
    load_words<kTiles, kBits>(record + layout.value_codes, lane, words);
    load_scales<kTiles>(record + layout.value_scales, lane >> 2, scales);
    if (!Codes::offset_in_accumulator && codes.zero() != kNoZero)
        load_scales<kTiles>(record + layout.value_zeros, lane >> 2, zeros);
    constexpr int kCode = Codes::offset_in_accumulator ? code_offset(kBits) : 1;
    const float none[4] = {0.f, 0.f, 0.f, 0.f};
    const uint32_t other = kBits == 3 ? as_u32(__hmul2(as_half2(weights[3]), __float2half2_rn(0.125f))) : weights[3];
    uint32_t one[4];
    float total[4];  // -offset sum of weights, or sum of weights
#pragma unroll
    for (int cls = 0; cls < 4; ++cls) one[cls] = constant_code(kBits, cls, kCode, Codes::offset_in_accumulator);
    mma(total, one[0], one[0], one[1], one[1], weights[0], weights[1], none);
    mma(total, one[2], one[2], one[3], one[3], weights[2], weights[3], total);
    constexpr float kBack = (Codes::offset_in_accumulator ? -1.f : 1.f) * (1 << unit_exponent(kBits)) / kCode;
    state.sum[0] = fmaf(total[0], kBack, state.sum[0]);
    state.sum[1] = fmaf(total[1], kBack, state.sum[1]);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        uint32_t a[16];
        unpack_tile<kBits>(words + kBits * t, a);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            float acc[4];
            mma(acc, a[2 * m], a[2 * m + 1], a[4 + 2 * m], a[5 + 2 * m], weights[0], weights[1],
                Codes::offset_in_accumulator ? static_cast<const float (&)[4]>(total) : none);
            mma(acc, a[8 + 2 * m], a[9 + 2 * m], a[12 + 2 * m], a[13 + 2 * m], weights[2],
                kBits == 3 && m == 1 ? other : weights[3], acc);
            const float2 scale2 = unpack_half2(scales[2 * t + m]);
            const float2 zero2 = Codes::offset_in_accumulator || codes.zero() == kNoZero
                                     ? float2{0.f, 0.f}
                                     : unpack_half2(zeros[2 * t + m]);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float scale = h ? scale2.y : scale2.x, zero = h ? zero2.y : zero2.x;
                if (!Codes::offset_in_accumulator) affine(codes.zero(), code_offset(kBits), scale, zero);
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float &out = state.out[t][2 * m + h][e];
                    out = fmaf(scale, acc[2 * h + e], out);
                    if (!Codes::offset_in_accumulator) out = fmaf(zero, total[e], out);
                }
            }
        }
    }
}

// kRecords neighbouring records at once: one vote, and one record's arithmetic hides the other's latency. Tokens at or
// behind `tokens` of the last record are not seen.
template <int kRecords, int kTiles, class KeyCodes, class ValueCodes>
__device__ __forceinline__ void attend_records(const KeyCodes &keys, const ValueCodes &values,
                                               const Query<kTiles, KeyCodes> &query, const char *records,
                                               const RecordLayout &layout, int tokens, int lane,
                                               Softmax<kTiles> &state) {
    float scores[4 * kRecords][2];
    uint32_t weights[4 * kRecords];
    int exponents[4 * kRecords];
#pragma unroll
    for (int r = 0; r < kRecords; ++r) {
        float part[4][2];
        with_bits(keys, [&](auto bits) {
            key_scores<decltype(bits)::value, kTiles>(keys, query, records + r * layout.bytes, layout, lane, part);
        });
#pragma unroll
        for (int sub = 0; sub < 4; ++sub) {
            scores[4 * r + sub][0] = part[sub][0], scores[4 * r + sub][1] = part[sub][1];
            exponents[4 * r + sub] = operand_exponent(values.bits(), sub, 0);
        }
    }
    if (kRecords == 1) {
#pragma unroll
        for (int sub = 0; sub < 4; ++sub)
            if (8 * sub + (lane >> 2) >= tokens) scores[sub][0] = scores[sub][1] = -INFINITY;
    }
    weights_of(scores, query.factor, exponents, state, weights);
#pragma unroll
    for (int r = 0; r < kRecords; ++r)
        with_bits(values, [&](auto bits) {
            add_values<decltype(bits)::value, kTiles>(values, records + r * layout.bytes, layout, lane, weights + 4 * r,
                                                      state);
        });
}

}  // namespace innerq::attend
