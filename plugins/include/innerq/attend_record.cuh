// Attention over records in shared memory: scores = K q, weights = softmax, out += V^T weights.
//
// Both products have tokens or channels on M and query rows on N (m16n8k16). A scale multiplies the finished sum of its
// group of 32, in fp32. A stored code is offset; symmetric modes take the offset back as the initial accumulator.
#pragma once

#include "innerq/attend_query.cuh"
#include "innerq/attend_values.cuh"

namespace innerq::attend {

// scores[sub][e] of kRecords neighbouring records that share a product: token 8 sub + g, column 2q + e, in units of
// 2^-unit_exponent times Query::factor.
template <int kRecords, int kBits, int kTiles, class Codes, int kShare>
__device__ __forceinline__ void key_scores(const Codes &codes, const Query<kTiles, Codes, kShare> &query,
                                           const char *records, const RecordLayout &layout, int lane,
                                           float (&scores)[4][2]) {
    uint32_t words[kRecords][kTiles * kBits], scales[2 * kTiles], zeros[2 * kTiles];
#pragma unroll
    for (int r = 0; r < kRecords; ++r)
        load_words<kTiles, kBits>(records + r * layout.bytes + layout.key_codes, lane, words[r]);
    const char *own = records + own_record<kRecords>(layout, lane);
    load_scales<kTiles>(own + layout.key_scales, lane >> 2, scales);
    if (!Codes::offset_in_accumulator && codes.zero() != kNoZero)
        load_scales<kTiles>(own + layout.key_zeros, lane >> 2, zeros);
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        uint32_t a[kRecords][16];
#pragma unroll
        for (int r = 0; r < kRecords; ++r) unpack_tile<kBits>(words[r] + kBits * t, a[r]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            const float none[4] = {0.f, 0.f, 0.f, 0.f};
            float acc[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) acc[i] = Codes::offset_in_accumulator ? query.first[t][i] : none[i];
#pragma unroll
            for (int r = 0; r < kRecords; ++r) {
                const uint32_t *p = query.operand[r][t], *q = kBits == 3 && m == 1 ? query.other[r][t] : p + 2;
                mma(acc, a[r][2 * m], a[r][2 * m + 1], a[r][4 + 2 * m], a[r][5 + 2 * m], p[0], p[1], acc);
                mma(acc, a[r][8 + 2 * m], a[r][9 + 2 * m], a[r][12 + 2 * m], a[r][13 + 2 * m], q[0], q[1], acc);
            }
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

// kRecords neighbouring records at once: one vote, and one product's arithmetic hides the other's latency. kShare of them
// share a product. Tokens at or behind `tokens` of a single record are not seen.
template <int kRecords, int kShare, int kTiles, class KeyCodes, class ValueCodes>
__device__ __forceinline__ void attend_records(const KeyCodes &keys, const ValueCodes &values,
                                               const ValueConstants<kTiles, ValueCodes> &constants,
                                               const Query<kTiles, KeyCodes, kShare> &query, const char *records,
                                               const RecordLayout &layout, int tokens, int lane,
                                               Softmax<kTiles> &state) {
    constexpr int kTogether = kRecords < kShare ? kRecords : kShare, kProducts = kRecords / kTogether;
    float scores[4 * kProducts][2];
    int exponents[4 * kProducts];
#pragma unroll
    for (int i = 0; i < kProducts; ++i) {
        float part[4][2];
        with_bits(keys, [&](auto bits) {
            key_scores<kTogether, decltype(bits)::value>(keys, query, records + i * kTogether * layout.bytes, layout,
                                                         lane, part);
        });
#pragma unroll
        for (int sub = 0; sub < 4; ++sub) {
            scores[4 * i + sub][0] = part[sub][0], scores[4 * i + sub][1] = part[sub][1];
            exponents[4 * i + sub] = operand_exponent(values.bits(), sub, 0);
        }
    }
    if (kRecords == 1) {
        const bool no_column = record_of_column<kShare>(2 * (lane & 3)) != 0;
#pragma unroll
        for (int sub = 0; sub < 4; ++sub)
            if (8 * sub + (lane >> 2) >= tokens || no_column) scores[sub][0] = scores[sub][1] = -INFINITY;
    }
    with_bits(values, [&](auto bits) {
        constexpr int kBits = decltype(bits)::value;
        ValueProduct<kTogether, kBits, kTiles, ValueCodes> products[kProducts];
        float first[2][4], totals[2][4];
        products[0].load(records, layout, lane);
        with_weights<kShare == 1>(scores, query.factor, exponents, state, [&](const uint32_t (&weights)[4 *kProducts]) {
#pragma unroll
            for (int i = 0; i < kProducts; ++i) products[i].weigh(constants, weights + 4 * i, lane);
            products[0].multiply(0, first);
        });
#pragma unroll
        for (int i = 0; i < kProducts; ++i) {
            const char *own = records + i * kTogether * layout.bytes;
            if (i > 0) products[i].load(own, layout, lane), products[i].multiply(0, first);
            products[i].add(values, own, layout, lane, first, state);
#pragma unroll
            for (int j = 0; j < 4; ++j) totals[i][j] = products[i].total[j];
        }
        if constexpr (ValueCodes::zeros_by_product)
            add_zeros<kRecords, kShare, kBits>(constants, records, layout, lane, totals, state);
    });
}

}  // namespace innerq::attend
