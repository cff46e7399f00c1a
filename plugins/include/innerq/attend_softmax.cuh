// Online softmax of 8 query rows over the tokens a warp sees, and the output it gathers.
//
// Fragment of a lane (g = lane / 4, q = lane % 4): query rows 2q + e, e = 0, 1; output channels 32 t + 4 g + sub. All that
// belongs to a query row is held alike by the 8 lanes of the same q.
#pragma once

#include "innerq/attend_codes.cuh"

namespace innerq::attend {

inline constexpr float kNoMaximum = -1e30f;     // below any score, yet finite: exp2(x - kNoMaximum) never is NaN
inline constexpr uint32_t kGuard = 0x70007000;  // half2 of 2^13: raised weights above make the maximum move

template <int kTiles>
struct Softmax {
    float out[kTiles][4][2];  // [tile][sub][e], in units of 2^-unit_exponent(value bits)
    float maximum[2];         // in log2; lags behind the true maximum, weights stay below 2^13 / 2^6
    float sum[2];

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
#pragma unroll
            for (int sub = 0; sub < 4; ++sub) out[t][sub][0] = out[t][sub][1] = 0.f;
#pragma unroll
        for (int e = 0; e < 2; ++e) maximum[e] = kNoMaximum, sum[e] = 0.f;
    }

    // Moves the maximum up to that of `highest` over the lanes of the query rows.
    __device__ __forceinline__ void raise(float (&highest)[2]) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
#pragma unroll
            for (int step = 4; step < 32; step *= 2)
                highest[e] = fmaxf(highest[e], __shfl_xor_sync(0xffffffffu, highest[e], step));
            const float now = fmaxf(maximum[e], highest[e]);
            const float factor = exp2_fast(maximum[e] - now);
            maximum[e] = now;
            sum[e] *= factor;
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
#pragma unroll
                for (int sub = 0; sub < 4; ++sub) out[t][sub][e] *= factor;
        }
    }

    // Adds up the two halves of the columns, where they hold the same query rows; both hold the sum then.
    __device__ __forceinline__ void fold() {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const float now = fmaxf(maximum[e], __shfl_xor_sync(0xffffffffu, maximum[e], 2));
            const float factor = exp2_fast(maximum[e] - now);
            const auto both = [&](float &x) { x *= factor, x += __shfl_xor_sync(0xffffffffu, x, 2); };
            maximum[e] = now;
            both(sum[e]);
#pragma unroll
            for (int t = 0; t < kTiles; ++t)
#pragma unroll
                for (int sub = 0; sub < 4; ++sub) both(out[t][sub][e]);
        }
    }
};

// Weights of kMatrices 8x8 matrices of scores [8 tokens g][query rows 2q + e]: 2^(score factor - maximum + exponent), of
// which use(operands) is given the B operands (query row g, tokens 2q, 2q + 1). Raises the maximum first where a weight
// would leave its range. kEarly: use is called before that is known, and again if so; nothing waits for the vote.
template <bool kEarly, int kMatrices, int kTiles, class Use>
__device__ __forceinline__ void with_weights(const float (&scores)[kMatrices][2], const float (&factor)[2],
                                             const int (&exponents)[kMatrices], Softmax<kTiles> &state,
                                             const Use &use) {
    uint32_t weights[kMatrices];
    const auto hand_on = [&] {
        uint32_t operands[kMatrices];
#pragma unroll
        for (int j = 0; j < kMatrices; ++j) operands[j] = transpose8x8(weights[j]);
        use(operands);
    };
    const auto evaluate = [&] {
#pragma unroll
        for (int j = 0; j < kMatrices; ++j) {
            const auto weight = [&](int e) {
                const float highest = state.maximum[e];
                const float lift = exponents[j] == 0 ? -highest : static_cast<float>(exponents[j]) - highest;
                return exp2_fast(fmaf(scores[j][e], factor[e], lift));
            };
            weights[j] = pack_half2(weight(0), weight(1));
        }
        if (kEarly) hand_on();
    };
    evaluate();
    half2 highest = as_half2(weights[0]);
#pragma unroll
    for (int j = 1; j < kMatrices; ++j) highest = __hmax2(highest, as_half2(weights[j]));
    const half2 guard = as_half2(kGuard);
    const bool beyond =
        __hgt(__low2half(highest), __low2half(guard)) || __hgt(__high2half(highest), __high2half(guard));
    if (__builtin_expect(__any_sync(0xffffffffu, beyond), 0)) {
        float top[2] = {kNoMaximum, kNoMaximum};
#pragma unroll
        for (int j = 0; j < kMatrices; ++j)
#pragma unroll
            for (int e = 0; e < 2; ++e) top[e] = fmaxf(top[e], scores[j][e] * factor[e]);
        state.raise(top);
        evaluate();
    }
    if (!kEarly) hand_on();
}

}  // namespace innerq::attend
