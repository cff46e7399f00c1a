// Attention over a chunk of 16 tokens in full precision: sinks, recent tokens and new tokens, straight from global memory.
//
// The lanes' channels are those of the records (layout.cuh), so that query rows and outputs have one arrangement: a lane
// reads 8 neighbouring channels of two keys, and 4 neighbouring channels of four values.
#pragma once

#include "attend_plan.cuh"
#include "attend_query.cuh"
#include "attend_softmax.cuh"
#include "innerq/cache.cuh"

namespace innerq::attend {

// One sequence and KV head of a launch: where its window tokens are.
struct Window {
    const CacheParams &cache;
    const TokenParams &key, &value;
    const Sequence &sequence;
    int batch, head;

    // The D numbers of window token `index` (counted as in Sequence), or nullptr behind the last.
    __device__ __forceinline__ const uint16_t *row(Part part, int index) const {
        const int older = sequence.sinks + sequence.tail;
        if (index < older) {
            int slot = index;
            if (index >= sequence.sinks) {
                slot = sequence.tail_slot + index - sequence.sinks;
                slot = cache.sink + (slot < cache.ring ? slot : slot - cache.ring);
            }
            return window_row(cache, batch, part, head, slot);
        }
        if (index >= older + sequence.fresh) return nullptr;
        return token_row(part == kKeys ? key : value, batch, head, index - older);
    }
};

inline constexpr int kWindowExponent = 6;  // weights of the window are raised by 2^6, which keeps small ones exact

template <int kTiles>
__device__ __forceinline__ void window_scores(const Window &window, int first, const char *query_row, int lane,
                                              float (&scores)[2][2]) {
    const int group = lane >> 2, quad = lane & 3;
    const bool bf16 = window.cache.bf16;
    const char *rows[2];
    uint4 keys[2][kTiles];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        rows[h] = reinterpret_cast<const char *>(window.row(kKeys, first + 8 * h + group));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) keys[h][t] = load_query8(rows[h], 32 * t + 8 * quad, bf16);
    }
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const uint4 q = load_query8(query_row, 32 * t + 8 * quad, bf16);
        mma(acc, keys[0][t].x, keys[1][t].x, keys[0][t].y, keys[1][t].y, q.x, q.y, acc);
        mma(acc, keys[0][t].z, keys[1][t].z, keys[0][t].w, keys[1][t].w, q.z, q.w, acc);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i / 2][i % 2] = acc[i];
}

// values[cls][half][t]: channels 32 t + 4 g .. + 3 of token first + 8 cls + 2 q + half.
template <int kTiles>
__device__ __forceinline__ void load_window_values(const Window &window, int first, int lane,
                                                   uint2 (&values)[2][2][kTiles]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint16_t *row = window.row(kValues, first + 8 * (i / 2) + 2 * (lane & 3) + i % 2);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            uint2 x = {0u, 0u};
            if (row != nullptr) x = __ldg(reinterpret_cast<const uint2 *>(row + 32 * t + 4 * (lane >> 2)));
            values[i / 2][i % 2][t] = {to_half2(x.x, window.cache.bf16), to_half2(x.y, window.cache.bf16)};
        }
    }
}

// limit[e]: window tokens that query row 2q + e sees; log2_scale: of the softmax.
template <int kTiles>
__device__ __forceinline__ void attend_window(const Window &window, int first, const char *query_row,
                                              const int (&limit)[2], float log2_scale, float unit, int lane,
                                              Softmax<kTiles> &state) {
    float scores[2][2];
    uint2 values[2][2][kTiles];
    load_window_values<kTiles>(window, first, lane, values);
    window_scores<kTiles>(window, first, query_row, lane, scores);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int e = 0; e < 2; ++e)
            if (first + 8 * h + (lane >> 2) >= limit[e]) scores[h][e] = -INFINITY;
    const float factor[2] = {log2_scale, log2_scale};
    const int exponents[2] = {kWindowExponent, kWindowExponent};
    uint32_t weights[2];
    weights_of(scores, factor, exponents, state, weights);
    const float none[4] = {0.f, 0.f, 0.f, 0.f};
    const float back = 1.f / (1 << kWindowExponent);
    const uint32_t ones = 0x3c003c00u;
    float acc[4];
    mma(acc, ones, ones, ones, ones, weights[0], weights[1], none);
    state.sum[0] = fmaf(acc[0], back, state.sum[0]);
    state.sum[1] = fmaf(acc[1], back, state.sum[1]);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
        for (int m = 0; m < 2; ++m) {  // subs 2m, 2m + 1: words m of the four tokens
            uint32_t word[2][2];
#pragma unroll
            for (int i = 0; i < 4; ++i) word[i / 2][i % 2] = m ? values[i / 2][i % 2][t].y : values[i / 2][i % 2][t].x;
            mma(acc, __byte_perm(word[0][0], word[0][1], 0x5410), __byte_perm(word[0][0], word[0][1], 0x7632),
                __byte_perm(word[1][0], word[1][1], 0x5410), __byte_perm(word[1][0], word[1][1], 0x7632), weights[0],
                weights[1], none);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float &out = state.out[t][2 * m + i / 2][i % 2];
                out = fmaf(acc[i], unit, out);
            }
        }
}

}  // namespace innerq::attend
