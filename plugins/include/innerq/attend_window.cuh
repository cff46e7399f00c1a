// Attention over a chunk of 16 tokens in full precision: sinks, recent tokens and new tokens. Its keys and its values pass
// through the ring, a stage each.
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
    const uint16_t *keys;  // slot 0 of the window
    int64_t to_values;     // from there to the values'
    int sinks, older, last, turn;

    __device__ __forceinline__ Window(const Task &task, const Sequence &sequence, const Segment &segment)
        : task(task),
          segment(segment),
          sinks(sequence.sinks),
          older(sequence.sinks + sequence.tail),
          last(older + sequence.fresh - 1) {
        const CacheParams &cache = task.params.cache;
        const int64_t slots = cache.window_slots * cache.head_dim;
        keys = static_cast<uint16_t *>(cache.window) + (2 * segment.batch * cache.kv_heads + segment.head) * slots;
        to_values = cache.kv_heads * slots;
        const int first_tail = sequence.behind_sinks - sequence.tail;
        turn = first_tail - task.by_ring.divide(first_tail) * cache.ring - sinks;
    }

    // Neighbours in memory from window token `token` on, counted as in Sequence: sinks, tail, new ones.
    __device__ __forceinline__ RowRun rows(Part part, int token) const {
        const CacheParams &cache = task.params.cache;
        if (token >= older) {
            const TokenParams &fresh = part == kKeys ? task.params.key : task.params.value;
            return {token_row(fresh, segment.batch, segment.head, token - older), 1};
        }
        const uint16_t *held = keys + (part == kKeys ? 0 : to_values);
        if (token < sinks) return {held + token * cache.head_dim, sinks - token};
        const int turned = token + turn < cache.ring ? token + turn : token + turn - cache.ring;
        return {held + (cache.sink + turned) * cache.head_dim, min(older - token, cache.ring - turned)};
    }
};

inline constexpr int kWindowExponent = 6;  // weights of the window are raised by 2^6, which keeps small ones exact

// Weights of a chunk as B operands, from its keys [16, D] in shared memory. first: window token that it begins with;
// log2_scale: of the softmax.
template <int kShare, int kTiles>
__device__ __forceinline__ void window_weights(const Window &window, const char *keys, const RawQuery<kTiles> &raw,
                                               int first, float log2_scale, int lane, Softmax<kTiles> &state,
                                               uint32_t (&weights)[2]) {
    const bool bf16 = window.task.params.cache.bf16;
    const char *from = keys + (lane >> 2) * (64 * kTiles) + 16 * (lane & 3);
    float acc[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        const uint4 a = to_half8(*reinterpret_cast<const uint4 *>(from + 64 * t), bf16), q = raw.query[t];
        const uint4 b = to_half8(*reinterpret_cast<const uint4 *>(from + 64 * t + 8 * 64 * kTiles), bf16);
        mma(acc, a.x, b.x, a.y, b.y, q.x, q.y, acc);
        mma(acc, a.z, b.z, a.w, b.w, q.z, q.w, acc);
    }
    float scores[2][2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int column = 2 * (lane & 3) + e;
        const int token = window.task.by_group.divide(window.segment.row_chunk * kRows + column);
        const int sees = record_of_column<kShare>(column) == 0 ? min(window.older + token, window.last) : -1;
#pragma unroll
        for (int h = 0; h < 2; ++h) scores[h][e] = first + 8 * h + (lane >> 2) > sees ? -INFINITY : acc[2 * h + e];
    }
    const float factor[2] = {log2_scale, log2_scale};
    const int exponents[2] = {kWindowExponent, kWindowExponent};
    with_weights<false>(scores, factor, exponents, state,
                        [&](const uint32_t (&operands)[2]) { weights[0] = operands[0], weights[1] = operands[1]; });
}

// out += values^T weights, sum += weights, from the values [16, D] of the chunk in shared memory.
template <int kTiles, class ValueCodes>
__device__ __forceinline__ void add_window(const ValueCodes &codes, const Window &window, const char *values, int first,
                                           const uint32_t (&weights)[2], int lane, Softmax<kTiles> &state) {
    const bool bf16 = window.task.params.cache.bf16;
    const float unit =
        power_of_two(-kWindowExponent - unit_exponent(codes.bits()));  // of the sums, in that of state.out
    const float none[4] = {0.f, 0.f, 0.f, 0.f};
    const float back = 1.f / (1 << kWindowExponent);
    const uint32_t ones = 0x3c003c00u;
    float acc[4];
    mma(acc, ones, ones, ones, ones, weights[0], weights[1], none);
    state.sum[0] = fmaf(acc[0], back, state.sum[0]);
    state.sum[1] = fmaf(acc[1], back, state.sum[1]);
    const char *from[4];  // of tokens 2q, 2q + 1, 8 + 2q, 9 + 2q; behind the last one there may be anything
    bool there[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int token = 8 * (i / 2) + 2 * (lane & 3) + i % 2;
        from[i] = values + token * (64 * kTiles) + 8 * (lane >> 2);
        there[i] = first + token <= window.last;
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
        uint2 words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            words[i] = *reinterpret_cast<const uint2 *>(from[i] + 64 * t);
            words[i] = {to_half2(words[i].x, bf16), to_half2(words[i].y, bf16)};
            if (!there[i]) words[i] = {0u, 0u};
        }
#pragma unroll
        for (int m = 0; m < 2; ++m) {  // subs 2m, 2m + 1
            uint32_t word[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) word[i] = m ? words[i].y : words[i].x;
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
}

}  // namespace innerq::attend
