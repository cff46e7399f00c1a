// Who works on what: a flat split of all the work of a launch over warps, from lengths that only the device knows.
//
// A segment is (sequence, KV head, chunk of 8 query rows). Its work is a line of units: kStartUnits for its beginning,
// blocks, one unit each, and its window, 16 tokens at a time, kWindowUnits each, spread among the blocks because their cost
// is known less well. The segments of a launch, laid end to end, are cut into equal pieces, one per warp; so a ragged batch
// costs what its tokens cost. Plain arithmetic, for host and device; every warp does it before its first copy, where each
// division counts. All counts of units fit an int (launch_attend sees to that).
#pragma once

#include <cstdint>

#include "innerq/layout.cuh"

namespace innerq::attend {

inline constexpr int kWindowTokens = 16;    // tokens of a window chunk
inline constexpr int kWindowUnits = 4;      // what a window chunk costs, in blocks; a power of two
inline constexpr int kStartUnits = 4;       // what a new segment costs a warp
inline constexpr int kRows = 8;             // query rows of a segment: (token, head of the group), token-major
inline constexpr int kMaxParts = 256;       // CTAs of a launch at most
inline constexpr int kLeastUnits = 8;       // units of a CTA at least
inline constexpr int kMostLines = 1 << 15;  // segments of a sequence at most

// The record whose scores column n of a product holds, if kShare records share its 8 columns.
template <int kShare>
INNERQ_HD constexpr int record_of_column(int column) {
    return column / (kRows / kShare);
}

INNERQ_HD constexpr int at_least(int x, int low) { return x < low ? low : x; }
INNERQ_HD constexpr int at_most(int x, int high) { return x > high ? high : x; }
INNERQ_HD constexpr int clamp_int(int x, int low, int high) { return at_most(at_least(x, low), high); }

// Of a positive number.
INNERQ_HD inline int leading_zeros(int x) {
#ifdef __CUDA_ARCH__
    return __clz(x);
#else
    return __builtin_clz(static_cast<unsigned>(x));
#endif
}

// Division by a number that the host knows, of 0 .. 2^31 - 1 (Granlund and Montgomery's method).
struct Divisor {
    unsigned divisor, multiplier;
    int shift;

    Divisor() = default;
    explicit Divisor(unsigned d) : divisor(d), shift(0) {
        while ((uint64_t{1} << shift) < d) ++shift;
        multiplier = static_cast<unsigned>((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d) / d + 1);
    }
    INNERQ_HD int divide(int x) const {
#ifdef __CUDA_ARCH__
        return static_cast<int>((__umulhi(multiplier, x) + x) >> shift);
#else
        return static_cast<int>((((uint64_t{multiplier} * unsigned(x)) >> 32) + unsigned(x)) >> shift);
#endif
    }
};

// floor(x / y) for 0 <= x < 2^31, 0 < y, and a quotient up to kMostLines. inverse: 1 / y, to 2^-22 of it.
INNERQ_HD inline int small_quotient(int x, int y, float inverse) {
    int quotient = static_cast<int>(static_cast<float>(x) * inverse);
    const int rest = x - quotient * y;
    quotient -= rest < 0;
    quotient += rest >= y;
    return quotient;
}

// The cache of a sequence, without the pointers.
struct CacheShape {
    int sink, ring, capacity_blocks;  // ring = recent + 32
};

// What new queries see of one sequence. Window tokens are counted: sinks, tail (oldest first), new ones.
struct Sequence {
    int fresh;          // new tokens, 0..S
    int sinks, tail;    // older tokens in the window
    int behind_sinks;   // older tokens that are no sinks
    int blocks;         // quantised blocks that hold at least one older token
    int chunks, units;  // units >= 1
    int period;         // log2: chunk i begins at unit kStartUnits + (i << period)

    // past, fresh: as read from the device, not trusted.
    INNERQ_HD Sequence(int past, int new_tokens, int tokens, const CacheShape &cache) {
        past = clamp_int(past, 0, INT32_MAX - 64);
        fresh = clamp_int(new_tokens, 0, tokens);
        const int due = at_least(past + fresh - cache.sink - (cache.ring - kGroup), 0) / kGroup;
        const int quantised = at_most(due, cache.capacity_blocks);
        behind_sinks = at_least(past - cache.sink, 0);
        sinks = past - behind_sinks;
        tail = clamp_int(behind_sinks - kGroup * quantised, 0, cache.ring);
        blocks = at_most(quantised, static_cast<int>((unsigned(behind_sinks) + kGroup - 1) / kGroup));
        chunks = static_cast<int>(unsigned(sinks + tail + fresh + kWindowTokens - 1) / kWindowTokens);
        if (fresh == 0) chunks = blocks = 0;
        const int work = chunks * kWindowUnits + blocks;
        units = kStartUnits + work;
        period = chunks == 0 ? 0 : leading_zeros(chunks) - leading_zeros(work);
        if (chunks > work >> period) --period;
    }

    // Older tokens of the last block.
    INNERQ_HD int last_tokens() const { return at_most(behind_sinks - kGroup * (blocks - 1), kGroup); }
    // Window chunks that begin before unit x.
    INNERQ_HD int chunks_before(int x) const {
        return at_most((at_least(x - kStartUnits, 0) + (1 << period) - 1) >> period, chunks);
    }
    // Blocks before unit x.
    INNERQ_HD int blocks_before(int x) const {
        const int begun = chunks_before(x), inner = at_least(x - kStartUnits, 0);
        if (begun == 0) return at_most(inner, blocks);
        const int inside = at_most(inner - ((begun - 1) << period), kWindowUnits);
        return inner - (begun - 1) * kWindowUnits - inside;
    }
    // The same in whole steps of kStep blocks, so that no step but the last of a sequence is cut, nor lies in two pages of
    // whole steps.
    template <int kStep>
    INNERQ_HD int steps_before(int x) const {
        return x >= units ? blocks : blocks_before(x) / kStep * kStep;
    }
};

// Cutting `total` units into `parts` of kLeastUnits at least: part p is [cut(p), cut(p + 1)). The first `longer` have one
// unit more; where there is little to do, the last ones have less or nothing.
struct Cuts {
    int total, each, longer;
    INNERQ_HD Cuts(int total, const Divisor &parts)
        : total(total),
          each(at_least(parts.divide(total), kLeastUnits)),
          longer(at_least(total - each * static_cast<int>(parts.divisor), 0)) {}
    INNERQ_HD int cut(int p) const { return at_most(each * p + at_most(p, longer), total); }
    INNERQ_HD int part_of(int unit) const {
        const int in_longer = (each + 1) * longer;
        const bool beyond = unit >= in_longer;
        return beyond * longer + unsigned(unit - beyond * in_longer) / unsigned(each + !beyond);
    }
};

// Warps that share a piece of a segment, and which of them this one is. The piece is dealt out: its window chunks first,
// one a warp, then steps of a few blocks, one a warp, so that the team reads neighbouring records at the same time. Warps
// that have a chunk more get the steps that cost as much less.
struct Team {
    int size = 1, member = 0;

    // Member's i-th step.
    struct Steps {
        int early, early_stride, early_count, rest, rest_stride;
        INNERQ_HD int step(int i) const {
            return i < early_count ? early + i * early_stride : rest + (i - early_count) * rest_stride;
        }
    };
    template <int kBlocks>  // of a step
    INNERQ_HD Steps steps(int chunks) const {
        const int over = (size & (size - 1)) == 0 ? chunks & (size - 1) : chunks % size;
        const int without = over == 0 ? 0 : size - over;
        constexpr int rounds = kWindowUnits / kBlocks;
        return {member - over, without, member < over ? 0 : without == 0 ? 0 : rounds, rounds * without + member, size};
    }
};

}  // namespace innerq::attend
