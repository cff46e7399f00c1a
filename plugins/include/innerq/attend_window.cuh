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

// Where the window tokens of one sequence and KV head are.
struct Window {
    const uint16_t *held[2], *fresh[2];  // keys, values: slot 0 of the window; new token 0
    int64_t fresh_stride[2];             // between new tokens, in numbers
    int sinks, older, last, sink, ring, turn, head_dim;

    __device__ __forceinline__ Window(const CacheParams &cache, const TokenParams &key, const TokenParams &value,
                                      const Sequence &sequence, int batch, int head)
        : held{window_row(cache, batch, kKeys, head, 0), window_row(cache, batch, kValues, head, 0)},
          fresh{token_row(key, batch, head, 0), token_row(value, batch, head, 0)},
          fresh_stride{key.stride_token, value.stride_token}, sinks(sequence.sinks),
          older(sequence.sinks + sequence.tail), last(older + sequence.fresh - 1), sink(cache.sink), ring(cache.ring),
          turn((sequence.behind_sinks - sequence.tail) % cache.ring - sequence.sinks), head_dim(cache.head_dim) {}

    // The D numbers of a window token that is no new one, counted as in Sequence.
    __device__ __forceinline__ const uint16_t *held_row(Part part, int token) const {
        const int turned = token + turn;
        const int slot = token < sinks ? token : sink + (turned < ring ? turned : turned - ring);
        return held[part] + slot * head_dim;
    }
    // Of any. Behind the last one, the last one's: whatever is finite serves where the weight is 0.
    __device__ __forceinline__ const uint16_t *row(Part part, int index) const {
        const int token = min(index, last);
        return token < older ? held_row(part, token) : fresh[part] + (token - older) * fresh_stride[part];
    }
};

// Keys and values of 16 window tokens, as loaded.
template <int kTiles>
struct WindowChunk {
    uint4 keys[2][kTiles];       // [h][t]: channels 32 t + 8 q .. of token 8 h + g
    uint2 values[2][2][kTiles];  // [cls][half][t]: channels 32 t + 4 g .. of token 8 cls + 2 q + half

    __device__ __forceinline__ void load(const Window &window, int first, int lane) {
        if (first + kWindowTokens <= window.older)
            load_rows([&](Part part, int i) { return window.held_row(part, first + i); }, lane);
        else
            load_rows([&](Part part, int i) { return window.row(part, first + i); }, lane);
    }

    template <class Row>
    __device__ __forceinline__ void load_rows(const Row &row, int lane) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const uint16_t *from = row(kKeys, 8 * h + (lane >> 2)) + 8 * (lane & 3);
#pragma unroll
            for (int t = 0; t < kTiles; ++t) keys[h][t] = __ldg(reinterpret_cast<const uint4 *>(from + 32 * t));
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint16_t *from = row(kValues, 8 * (i / 2) + 2 * (lane & 3) + i % 2) + 4 * (lane >> 2);
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
                values[i / 2][i % 2][t] = __ldg(reinterpret_cast<const uint2 *>(from + 32 * t));
        }
    }

    __device__ __forceinline__ void convert() {
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
            keys[0][t] = to_half8(keys[0][t], true), keys[1][t] = to_half8(keys[1][t], true);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                uint2 &x = values[i / 2][i % 2][t];
                x = {to_half2(x.x, true), to_half2(x.y, true)};
            }
        }
    }
};

inline constexpr int kWindowExponent = 6;  // weights of the window are raised by 2^6, which keeps small ones exact

template <int kTiles>
__device__ __forceinline__ void window_scores(const WindowChunk<kTiles> &chunk, const RawQuery<kTiles> &raw,
                                              float (&scores)[2][2]) {
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const uint4 a = chunk.keys[0][t], b = chunk.keys[1][t], q = raw.query[t];
        mma(acc, a.x, b.x, a.y, b.y, q.x, q.y, acc);
        mma(acc, a.z, b.z, a.w, b.w, q.z, q.w, acc);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[i / 2][i % 2] = acc[i];
}

// first: window token that the chunk begins with; limit[e]: window tokens that query row 2q + e sees; log2_scale: of the
// softmax; unit: of the values' sums in units of state.out.
template <int kTiles>
__device__ __forceinline__ void attend_window(const WindowChunk<kTiles> &chunk, const RawQuery<kTiles> &raw, int first,
                                              const int (&limit)[2], float log2_scale, float unit, int lane,
                                              Softmax<kTiles> &state) {
    float scores[2][2];
    window_scores<kTiles>(chunk, raw, scores);
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
            uint32_t word[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) word[i] = m ? chunk.values[i / 2][i % 2][t].y : chunk.values[i / 2][i % 2][t].x;
            mma(acc, __byte_perm(word[0], word[1], 0x5410), __byte_perm(word[0], word[1], 0x7632),
                __byte_perm(word[2], word[3], 0x5410), __byte_perm(word[2], word[3], 0x7632), weights[0], weights[1],
                none);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float &out = state.out[t][2 * m + i / 2][i % 2];
                out = fmaf(acc[i], unit, out);
            }
        }
}

}  // namespace innerq::attend
