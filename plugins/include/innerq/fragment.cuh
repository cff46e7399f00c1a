// A tile in the registers of one warp: a lane holds the numbers whose codes are its own in fragment order (layout.cuh), 8
// of each of 4 groups, so what it quantises it also stores.
#pragma once

#include "innerq/words.cuh"

namespace innerq {

// A lane's activations, two a word.
struct Activations {
    uint32_t words[16];
};

// Where the activation of number k of group `sub` is.
struct ActivationPlace {
    int word, half;
};
template <int Part>
INNERQ_HD constexpr ActivationPlace activation_place(int sub, int k) {
    return Part == kKeys ? ActivationPlace{4 * sub + k / 2, k % 2} : ActivationPlace{2 * k + sub / 2, sub % 2};
}

// A lane's numbers, keys divided by lambda.
struct LaneTile {
    float x[kGroups][kOfGroup];
};

// Token and first channel of the run of activations `i` of a lane: 8 channels each for keys, 4 for values.
template <int Part>
INNERQ_HD constexpr int run_token(int lane, int i) {
    return Part == kKeys ? key_slot_token(lane, i) : value_slot_token(lane, i / 2, i % 2);
}
template <int Part>
INNERQ_HD constexpr int run_channel(int lane) {
    return Part == kKeys ? key_slot_channel(lane, 0, 0) : value_slot_channel(lane, 0);
}
template <int Part>
constexpr int kRuns = Part == kKeys ? 4 : 8;

template <int Part>
INNERQ_HD inline void load_run(Activations &to, int i, const uint16_t *from) {
    if (Part == kKeys) {
        reinterpret_cast<Chunk &>(to.words[4 * i]) = load_chunk(from);
    } else {
        const HalfChunk half = load_as<HalfChunk>(from);
        to.words[2 * i] = half.words[0], to.words[2 * i + 1] = half.words[1];
    }
}

template <int Part>
INNERQ_HD inline void store_run(uint16_t *to, const Activations &from, int i) {
    if (Part == kKeys) {
        store_chunk(to, reinterpret_cast<const Chunk &>(from.words[4 * i]));
    } else {
        store_as(to, HalfChunk{from.words[2 * i], from.words[2 * i + 1]});
    }
}

template <int Part>
INNERQ_HD inline uint16_t activation_of(const Activations &from, int sub, int k) {
    const ActivationPlace at = activation_place<Part>(sub, k);
    return static_cast<uint16_t>(from.words[at.word] >> (16 * at.half));
}

// Into words that were 0.
template <int Part>
INNERQ_HD inline void set_activation(Activations &to, int sub, int k, uint16_t bits) {
    const ActivationPlace at = activation_place<Part>(sub, k);
    to.words[at.word] |= static_cast<uint32_t>(bits) << (16 * at.half);
}

template <int Part>
INNERQ_HD inline void read_tile(const Activations &from, bool bf16, LaneTile &to) {
    if (bf16) {
        INNERQ_UNROLL
        for (int i = 0; i < kGroups * kOfGroup; ++i)
            to.x[i / kOfGroup][i % kOfGroup] = from_bfloat(activation_of<Part>(from, i / kOfGroup, i % kOfGroup));
    } else {
        INNERQ_UNROLL
        for (int i = 0; i < kGroups * kOfGroup; ++i)
            to.x[i / kOfGroup][i % kOfGroup] = from_half(activation_of<Part>(from, i / kOfGroup, i % kOfGroup));
    }
}

// Below this, divide_by could round twice. fp16 numbers never are; bf16 numbers divide the long way.
INNERQ_HD inline bool is_extreme(float x) { return x != 0.0f && fabsf(x) < 0x1p-60f; }

// Lambdas of a lane's channels and what divide_by needs of them.
struct LaneLambda {
    float of[kOfGroup], inverse[kOfGroup];
};

INNERQ_HD inline void set_lambda(LaneLambda &to, int k, float lambda) {
    to.of[k] = lambda;
    to.inverse[k] = ieee::inverse_of(lambda);
}

INNERQ_HD inline void read_lambda(const Chunk &from, LaneLambda &to) {
    INNERQ_UNROLL
    for (int k = 0; k < kOfGroup; ++k) set_lambda(to, k, from_half(number_of(from, k)));
}

// Keys divided by lambda.
INNERQ_HD inline void normalise(LaneTile &keys, const LaneLambda &lambda, bool bf16) {
    bool extreme = false;
    if (bf16) {
        INNERQ_UNROLL
        for (int i = 0; i < kGroups * kOfGroup; ++i) extreme |= is_extreme(keys.x[i / kOfGroup][i % kOfGroup]);
    }
    if (INNERQ_RARELY(extreme)) {
        INNERQ_UNROLL
        for (int i = 0; i < kGroups * kOfGroup; ++i) {
            float &x = keys.x[i / kOfGroup][i % kOfGroup];
            x = ieee::divide(x, lambda.of[i % kOfGroup]);
        }
        return;
    }
    INNERQ_UNROLL
    for (int i = 0; i < kGroups * kOfGroup; ++i) {
        float &x = keys.x[i / kOfGroup][i % kOfGroup];
        x = ieee::divide_by(x, lambda.of[i % kOfGroup], lambda.inverse[i % kOfGroup]);
    }
}

// Of numbers of all quads' channels, equal in all quads: the number of channel `lane`.
INNERQ_HD inline PerLane<float> of_own_channel(const Warp &warp, PerLane<Numbers<kOfGroup>> &x) {
    PerLane<float> own = {};
    INNERQ_UNROLL
    for (int k = 0; k < kOfGroup; ++k) {
        PerLane<float> one;
        warp([&](int lane) { one[lane] = x[lane].of[k]; });
        PerLane<float> got = gathered(one, [](int lane) { return lane / kOfGroup; });
        warp([&](int lane) { own[lane] = lane % kOfGroup == k ? got[lane] : own[lane]; });
    }
    return own;
}

// Raises the largest magnitudes of a lane's channels by its keys.
INNERQ_HD inline void raise_by(const LaneTile &keys, Numbers<kOfGroup> &largest) {
    INNERQ_UNROLL
    for (int i = 0; i < kGroups * kOfGroup; ++i) {
        float &most = largest.of[i % kOfGroup];
        most = fmaxf(most, fabsf(keys.x[i / kOfGroup][i % kOfGroup]));
    }
}

// Largest magnitude of channel `lane` from what the lanes have found.
INNERQ_HD inline PerLane<float> largest_of(const Warp &warp, PerLane<Numbers<kOfGroup>> &largest) {
    for (int mask = 4; mask < kLanes; mask *= 2) {
        PerLane<Numbers<kOfGroup>> there = largest;
        exchange(there, mask);
        warp([&](int lane) {
            INNERQ_UNROLL
            for (int k = 0; k < kOfGroup; ++k) largest[lane].of[k] = fmaxf(largest[lane].of[k], there[lane].of[k]);
        });
    }
    return of_own_channel(warp, largest);
}

// Lambdas of a key tile from the largest magnitude of channel `lane`, which every lane has; written where `writes`.
INNERQ_HD inline void make_lambda(const Warp &warp, PerLane<float> &largest, uint16_t *place, bool writes,
                                  PerLane<LaneLambda> &to) {
    PerLane<float> own;
    warp([&](int lane) {
        const uint16_t lambda = lambda_of(largest[lane]);
        if (writes) place[lane] = lambda;
        own[lane] = from_half(lambda);
    });
    INNERQ_UNROLL
    for (int k = 0; k < kOfGroup; ++k) {
        PerLane<float> got = gathered(own, [k](int lane) { return run_channel<kKeys>(lane) + k; });
        warp([&](int lane) { set_lambda(to[lane], k, got[lane]); });
    }
}

}  // namespace innerq
