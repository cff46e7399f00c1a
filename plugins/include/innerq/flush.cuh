// Quantising one tile: activations in scratch -> codes, scales and zeros in the record (SPEC sections 4 and 5).
#pragma once

#include "innerq/record.cuh"

namespace innerq {

// Codes of a thread's share for one way to store the group.
struct Share {
    GroupFit fit;
    float code[kShare];
};

// Below this, divide_by could round twice. fp16 numbers never are; bf16 numbers divide the long way.
INNERQ_HD inline bool is_extreme(float x) { return x != 0.0f && fabsf(x) < 0x1p-60f; }

// x / lambda of a key.
INNERQ_HD inline float normalised(const TileScratch &scratch, float x, int channel, bool extreme) {
    return extreme ? ieee::divide(x, scratch.lambda[channel])
                   : ieee::divide_by(x, scratch.lambda[channel], scratch.inverse[channel]);
}

// The same for a thread's share; one decision for all eight keeps branches out of the common path.
INNERQ_HD inline void normalise_share(const TileScratch &scratch, int thread, bool bf16, float (&x)[kShare]) {
    bool extreme = false;
    INNERQ_UNROLL
    for (int k = 0; k < kShare; ++k) extreme |= bf16 && is_extreme(x[k]);
    if (extreme) {
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k) x[k] = normalised(scratch, x[k], element_of(thread, k), true);
    } else {
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k) x[k] = normalised(scratch, x[k], element_of(thread, k), false);
    }
}

// Extremes of a group whose four threads have left theirs in scratch.
INNERQ_HD inline float low_of(const TileScratch &scratch, int group) {
    const float *low = scratch.low + kMembers * group;
    return fminf(fminf(low[0], low[1]), fminf(low[2], low[3]));
}

INNERQ_HD inline float high_of(const TileScratch &scratch, int group) {
    const float *high = scratch.high + kMembers * group;
    return fmaxf(fmaxf(high[0], high[1]), fmaxf(high[2], high[3]));
}

// Lambda of channel `thread` < 32 into scratch: what the cache holds, or what `largest` fixes it to.
INNERQ_HD inline void set_lambda(const CacheParams &cache, TilePlace at, bool fixes, float largest, bool writes,
                                 TileScratch &scratch, int thread) {
    uint16_t *place = lambda_row(cache, at.batch, at.head) + kGroup * at.tile + thread;
    const uint16_t lambda = fixes ? lambda_of(largest) : *place;
    if (writes) *place = lambda;
    scratch.lambda[thread] = from_half(lambda);
    scratch.inverse[thread] = ieee::reciprocal(scratch.lambda[thread]);
}

// Leaves the largest magnitude over the thread's eight tokens of one channel in scratch.high.
INNERQ_HD inline void find_largest(TileScratch &scratch, bool bf16, int thread) {
    float x[kShare], largest = 0.0f;
    read_share(scratch, kValues, thread, bf16, x);
    INNERQ_UNROLL
    for (int k = 0; k < kShare; ++k) largest = fmaxf(largest, fabsf(x[k]));
    scratch.high[thread] = largest;
}

// One tile of one record being made.
struct TileFlush {
    const CacheParams &cache;
    TilePlace at;
    TileParts parts;
    TileScratch &scratch;

    INNERQ_HD bool scaled() const { return at.part == kKeys && cache.learns_lambda; }

    // The thread's numbers, keys divided by lambda; their extremes go to scratch.
    INNERQ_HD void read(int thread, float (&x)[kShare]) const {
        read_share(scratch, at.part, thread, cache.bf16, x);
        if (scaled()) normalise_share(scratch, thread, cache.bf16, x);
        float low = INFINITY, high = -INFINITY;
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k) {
            low = fminf(low, x[k]);
            high = fmaxf(high, x[k]);
        }
        scratch.low[thread] = low;
        scratch.high[thread] = high;
    }

    // The first number of magnitude `largest` in a group that has it with both signs.
    INNERQ_HD float first_of(int group, float largest) const {
        for (int i = 0; i < kGroup; ++i) {
            float x = from_activation(group_number(scratch, at.part, group, i), cache.bf16);
            if (scaled()) x = normalised(scratch, x, i, is_extreme(x));
            if (fabsf(x) == largest) return x;
        }
        return largest;
    }

    INNERQ_HD GroupFit fit(int mode, int group) const {
        const float low = low_of(scratch, group), high = high_of(scratch, group);
        if (mode == kAsymmetric) return fit_asymmetric(low, high, parts.bits);
        if (mode != kSymmetricFull) return fit_symmetric(fmaxf(fabsf(low), fabsf(high)), parts.bits);
        if (fabsf(low) == fabsf(high)) return fit_symmetric_full(first_of(group, fabsf(high)), parts.bits);
        return fit_symmetric_full(fabsf(low) > fabsf(high) ? low : high, parts.bits);
    }

    INNERQ_HD Share quantise(int mode, int thread, const float (&x)[kShare]) const {
        Share share;
        share.fit = fit(mode, group_of(thread));
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k) share.code[k] = code_of(x[k], share.fit);
        return share;
    }

    // Sum of the thread's errors in the order of SPEC section 4: numbers 16, 8, then 4 apart.
    INNERQ_HD static float error_sum(const float (&x)[kShare], const Share &share) {
        float error[kShare];
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k) error[k] = error_of(x[k], share.code[k], share.fit);
        INNERQ_UNROLL
        for (int k = 0; k < 4; ++k) error[k] = ieee::add(error[k], error[k + 4]);
        return ieee::add(ieee::add(error[0], error[2]), ieee::add(error[1], error[3]));
    }

    // The rest of that order: sums of numbers 2 apart, then 1 apart.
    INNERQ_HD static float group_sum(const float *sum_of_thread, int group) {
        const float *sum = sum_of_thread + kMembers * group;
        return ieee::add(ieee::add(sum[0], sum[2]), ieee::add(sum[1], sum[3]));
    }

    INNERQ_HD void store(int thread, const Share &share, bool asymmetric) const {
        const float offset = offset_of(asymmetric, parts.bits);
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k)
            group_code(scratch, at.part, group_of(thread), element_of(thread, k)) =
                static_cast<uint8_t>(static_cast<uint32_t>(share.code[k] + offset));
        if (member_of(thread) == 0)
            store_scale(parts, at.part, at.tile, group_of(thread), scale_of(share.fit, asymmetric, parts.mode));
    }

    INNERQ_HD void run(const Team &team) const {
        struct Numbers {
            float x[kShare];
        };
        PerThread<Numbers> numbers;
        team([&](int thread) { read(thread, numbers[thread].x); });
        if (parts.mode == kHybrid) {
            run_hybrid(team, numbers);
        } else {
            team([&](int thread) {
                store(thread, quantise(parts.mode, thread, numbers[thread].x), parts.mode == kAsymmetric);
            });
        }
        team([&](int thread) {
            if (thread < 32) store_codes(parts, scratch, at.part, at.tile, thread);
        });
    }

    // Both ways side by side; the smaller sum of errors wins, symmetric on a tie.
    template <class Numbers>
    INNERQ_HD void run_hybrid(const Team &team, Numbers &numbers) const {
        PerThread<Share> symmetric, asymmetric;
        team([&](int thread) {
            symmetric[thread] = quantise(kSymmetric, thread, numbers[thread].x);
            asymmetric[thread] = quantise(kAsymmetric, thread, numbers[thread].x);
        });
        team([&](int thread) {
            scratch.low[thread] = error_sum(numbers[thread].x, symmetric[thread]);
            scratch.high[thread] = error_sum(numbers[thread].x, asymmetric[thread]);
        });
        team([&](int thread) {
            const int group = group_of(thread);
            const bool better = group_sum(scratch.high, group) < group_sum(scratch.low, group);
            Share &chosen = symmetric[thread], &other = asymmetric[thread];
            chosen.fit.scale = better ? other.fit.scale : chosen.fit.scale;
            chosen.fit.zero = better ? other.fit.zero : chosen.fit.zero;
            INNERQ_UNROLL
            for (int k = 0; k < kShare; ++k) chosen.code[k] = better ? other.code[k] : chosen.code[k];
            store(thread, chosen, better);
        });
    }
};

}  // namespace innerq
