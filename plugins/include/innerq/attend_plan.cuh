// Who works on what: a flat split of all the work of a launch over warps, from lengths that only the device knows.
//
// A segment is (sequence, KV head, chunk of 8 query rows). Its work is a line of units: blocks, one unit each, and its
// window, 16 tokens at a time, kWindowUnits each, spread among the blocks because their cost is known less well. The
// segments of a launch, laid end to end, are cut into equal pieces, one per warp; so a ragged batch costs what its tokens
// cost. Plain arithmetic, for host and device; every warp does it before its first copy, so divisions are few.
#pragma once

#include <cstdint>

#include "layout.cuh"

namespace innerq::attend {

inline constexpr int kWindowTokens = 16;  // tokens of a window chunk
inline constexpr int kWindowUnits = 4;    // what a window chunk costs, in blocks; a power of two
inline constexpr int kRows = 8;           // query rows of a segment: (token, head of the group), token-major
inline constexpr int kMaxParts = 256;     // CTAs of a launch at most
inline constexpr int kLeastUnits = 8;     // units of a CTA at least

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
    int period;         // log2: chunk i begins at unit i << period

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
        units = at_least(chunks * kWindowUnits + blocks, 1);
        period = chunks == 0 ? 0 : leading_zeros(chunks) - leading_zeros(units);
        if (chunks > units >> period) --period;
    }

    // Older tokens of the last block.
    INNERQ_HD int last_tokens() const { return at_most(behind_sinks - kGroup * (blocks - 1), kGroup); }
    // Window chunks that begin before unit x.
    INNERQ_HD int chunks_before(int x) const { return at_most((x + (1 << period) - 1) >> period, chunks); }
    // Blocks before unit x.
    INNERQ_HD int blocks_before(int x) const {
        const int begun = chunks_before(x);
        if (begun == 0) return at_most(x, blocks);
        const int inside = at_most(x - ((begun - 1) << period), kWindowUnits);
        return x - (begun - 1) * kWindowUnits - inside;
    }
};

// a / b; 64-bit division is slow on the GPU and seldom needed. a >= 0, b > 0.
INNERQ_HD inline int64_t divide(int64_t a, int b) {
    if (a <= UINT32_MAX) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
    return a / b;
}

// Cutting `total` units into `parts`, the first `longer` of which have one unit more: part p is [cut(p), cut(p + 1)).
struct Cuts {
    int64_t each;
    int parts, longer;
    INNERQ_HD Cuts(int64_t total, int parts)
        : each(divide(total, parts)), parts(parts), longer(static_cast<int>(total - each * parts)) {}
    INNERQ_HD int64_t cut(int p) const { return each * p + (p < longer ? p : longer); }
    // each > 0
    INNERQ_HD int part_of(int64_t unit) const {
        const int64_t in_longer = (each + 1) * longer;
        if (unit < in_longer) return static_cast<int>(unit / (each + 1));
        return longer + static_cast<int>((unit - in_longer) / each);
    }
};

// Parts worth starting for `total` units.
INNERQ_HD inline int useful_parts(int64_t total, int available) {
    const int64_t most = total / kLeastUnits;
    return most < 1 ? 1 : most < available ? static_cast<int>(most) : available;
}

}  // namespace innerq::attend
