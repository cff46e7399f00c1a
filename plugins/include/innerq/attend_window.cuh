// Attention over a chunk of 16 tokens in full precision: sinks, recent tokens and new tokens, straight from global memory.
//
// The lanes' channels are those of the records (layout.cuh), so that query rows and outputs have one arrangement: a lane
// reads 8 neighbouring channels of two keys, and 4 neighbouring channels of four values.
#pragma once

#include "innerq/attend_query.cuh"
#include "innerq/attend_softmax.cuh"
#include "innerq/attend_walk.cuh"

namespace innerq::attend {

// Where the window tokens of one sequence and KV head are.
struct Window {
    const Task &task;
    const Segment &segment;
    const uint16_t *held[2];  // keys, values: slot 0 of the window
    int sinks, older, last, turn;

    __device__ __forceinline__ Window(const Task &task, const Sequence &sequence, const Segment &segment)
        : task(task),
          segment(segment),
          sinks(sequence.sinks),
          older(sequence.sinks + sequence.tail),
          last(older + sequence.fresh - 1) {
        const CacheParams &cache = task.params.cache;
#pragma unroll
        for (int part = 0; part < 2; ++part) {
            const int head = (2 * segment.batch + part) * cache.kv_heads + segment.head;
            held[part] = static_cast<uint16_t *>(cache.window) + int64_t{head} * (cache.window_slots * cache.head_dim);
        }
        const int first_tail = sequence.behind_sinks - sequence.tail;
        turn = first_tail - task.by_ring.divide(first_tail) * cache.ring - sinks;
    }

    // The D numbers of a window token that is no new one, counted as in Sequence.
    __device__ __forceinline__ const uint16_t *held_row(Part part, int token) const {
        const CacheParams &cache = task.params.cache;
        const int turned = token + turn;
        const int slot = token < sinks ? token : cache.sink + (turned < cache.ring ? turned : turned - cache.ring);
        return held[part] + slot * cache.head_dim;
    }
    // Of any. Behind the last one, the last one's: whatever is finite serves where the weight is 0.
    __device__ __forceinline__ const uint16_t *row(Part part, int index) const {
        const int token = min(index, last);
        if (token < older) return held_row(part, token);
        const TokenParams &fresh = part == kKeys ? task.params.key : task.params.value;
        return token_row(fresh, segment.batch, segment.head, token - older);
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

// first: window token that the chunk begins with; log2_scale: of the softmax.
template <int kTiles, class ValueCodes>
__device__ __forceinline__ void attend_window(const ValueCodes &codes, const Task &task, const Window &window,
                                              const Segment &segment, const WindowChunk<kTiles> &chunk,
                                              const RawQuery<kTiles> &raw, int first, float log2_scale, int lane,
                                              Softmax<kTiles> &state) {
    float scores[2][2];
    window_scores<kTiles>(chunk, raw, scores);
    const float unit =
        power_of_two(-kWindowExponent - unit_exponent(codes.bits()));  // of the sums, in that of state.out
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int token = task.by_group.divide(segment.row_chunk * kRows + 2 * (lane & 3) + e);
#pragma unroll
        for (int h = 0; h < 2; ++h)
            if (first + 8 * h + (lane >> 2) > window.older + token) scores[h][e] = -INFINITY;
    }
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
