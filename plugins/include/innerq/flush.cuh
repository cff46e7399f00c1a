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

// The same for a thread's share; one decision for all keeps branches out of the common path.
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

// Joins what the members of a group have left in `of_thread`, in order.
template <class Join>
INNERQ_HD inline float join_group(const float *of_thread, int group, const Join &join) {
    float joined = of_thread[kMembers * group];
    INNERQ_UNROLL
    for (int member = 1; member < kMembers; ++member) joined = join(joined, of_thread[kMembers * group + member]);
    return joined;
}

INNERQ_HD inline float low_of(const TileScratch &scratch, int group) {
    return join_group(scratch.low, group, [](float a, float b) { return fminf(a, b); });
}

INNERQ_HD inline float high_of(const TileScratch &scratch, int group) {
    return join_group(scratch.high, group, [](float a, float b) { return fmaxf(a, b); });
}

// Lambda of channel `thread` < 32 of a key tile, in the cache and in scratch.
INNERQ_HD inline uint16_t *lambda_place(const CacheParams &cache, TilePlace at, int thread) {
    return lambda_row(cache, at.batch, at.head) + kGroup * at.tile + thread;
}

INNERQ_HD inline void keep_lambda(TileScratch &scratch, int thread, uint16_t lambda) {
    scratch.lambda[thread] = from_half(lambda);
    scratch.inverse[thread] = ieee::inverse_of(scratch.lambda[thread]);
}

// Leaves the largest magnitude over the thread's tokens of one channel in scratch.high.
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

    // The thread's numbers, keys divided by lambda. What the group must know of them goes to scratch.
    INNERQ_HD void read(int thread, float (&x)[kShare]) const {
        read_share(scratch, at.part, thread, cache.bf16, x);
        if (scaled()) normalise_share(scratch, thread, cache.bf16, x);
        parts.mode == kSymmetricFull ? leave_first_largest(thread, x) : leave_extremes(thread, x);
    }

    INNERQ_HD void leave_extremes(int thread, const float (&x)[kShare]) const {
        float low = x[0], high = x[0];
        INNERQ_UNROLL
        for (int k = 1; k < kShare; ++k) low = fminf(low, x[k]), high = fmaxf(high, x[k]);
        scratch.low[thread] = low;
        scratch.high[thread] = high;
    }

    // The first number of largest magnitude, and its index in the group.
    INNERQ_HD void leave_first_largest(int thread, const float (&x)[kShare]) const {
        float largest = x[0];
        int first = 0;
        INNERQ_UNROLL
        for (int k = 1; k < kShare; ++k) {
            const bool larger = fabsf(x[k]) > fabsf(largest);
            largest = larger ? x[k] : largest;
            first = larger ? k : first;
        }
        scratch.high[thread] = largest;
        scratch.low[thread] = static_cast<float>(element_of(thread, first));
    }

    INNERQ_HD float first_largest(int group) const {
        const float *largest = scratch.high + kMembers * group, *index = scratch.low + kMembers * group;
        int best = 0;
        INNERQ_UNROLL
        for (int member = 1; member < kMembers; ++member) {
            const float a = fabsf(largest[member]), b = fabsf(largest[best]);
            if (a > b || (a == b && index[member] < index[best])) best = member;
        }
        return largest[best];
    }

    INNERQ_HD GroupFit fit(int mode, int group) const {
        if (mode == kSymmetricFull) return fit_symmetric_full(first_largest(group), parts.bits);
        const float low = low_of(scratch, group), high = high_of(scratch, group);
        if (mode == kAsymmetric) return fit_asymmetric(low, high, parts.bits);
        return fit_symmetric(fmaxf(fabsf(low), fabsf(high)), parts.bits);
    }

    INNERQ_HD Share quantise(int mode, int thread, const float (&x)[kShare]) const {
        Share share;
        share.fit = fit(mode, group_of(thread));
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k) share.code[k] = code_of(x[k], share.fit);
        return share;
    }

    // Sum of the thread's errors in the order of SPEC section 4: numbers 16 apart first, kMembers apart last.
    INNERQ_HD static float error_sum(const float (&x)[kShare], const Share &share) {
        float error[kShare];
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k) error[k] = error_of(x[k], share.code[k], share.fit);
        add_halves(error);
        return error[0];
    }

    // The rest of that order, over the sums of the group's members.
    INNERQ_HD static float group_sum(const float *sum_of_thread, int group) {
        float sum[kMembers];
        INNERQ_UNROLL
        for (int member = 0; member < kMembers; ++member) sum[member] = sum_of_thread[kMembers * group + member];
        add_halves(sum);
        return sum[0];
    }

    // x[i] += x[i + n / 2], then n / 4, ... until x[0] holds the sum; n a power of two up to 32.
    template <int n>
    INNERQ_HD static void add_halves(float (&x)[n]) {
        INNERQ_UNROLL
        for (int step = 0; step < 5; ++step) {
            INNERQ_UNROLL
            for (int i = 0; i < n / 2; ++i)
                if (i < (n / 2) >> step) x[i] = ieee::add(x[i], x[i + ((n / 2) >> step)]);
        }
    }

    INNERQ_HD void store(int thread, const Share &share, bool asymmetric) const {
        INNERQ_UNROLL
        for (int k = 0; k < kShare; ++k)
            group_code(scratch, at.part, group_of(thread), element_of(thread, k)) =
                stored_code(share.code[k], asymmetric, parts.bits);
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
