// Who works on what: a flat split of all the work of a launch over warps, from lengths that only the device knows.
//
// A segment is (sequence, KV head, chunk of 8 query rows). Its work is a line of units: first its window, 16 tokens at a
// time, kWindowUnits each, then its blocks, one unit each. The segments of a launch, laid end to end, are cut into equal
// pieces, one per warp; so a ragged batch costs what its tokens cost. Plain arithmetic, for host and device.
#pragma once

#include <cstdint>

#include "layout.cuh"

namespace innerq::attend {

inline constexpr int kWindowTokens = 16;  // tokens of a window chunk
inline constexpr int kWindowUnits = 2;    // what a window chunk costs, in blocks
inline constexpr int kRows = 8;           // query rows of a segment: (token, head of the group), token-major
inline constexpr int kMaxParts = 256;     // CTAs of a launch at most
inline constexpr int kLeastUnits = 8;     // units of a CTA at least

// What new queries see of one sequence. Window tokens are counted: sinks, tail (oldest first), new ones.
struct Sequence {
    int fresh;        // new tokens, 0..S
    int sinks, tail;  // older tokens in the window
    int tail_slot;    // ring slot (0..ring-1) of the first tail token
    int blocks;       // quantised blocks that hold at least one older token
    int last_tokens;  // older tokens in the last of them
    int chunks;       // of the window
    int units;        // >= 1
};

INNERQ_HD constexpr int clamp_int(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

// past, fresh: as read from the device, not trusted. ring = recent + 32.
INNERQ_HD inline Sequence sequence_of(int past, int fresh, int tokens, int sink, int ring, int capacity_blocks) {
    Sequence s{};
    past = clamp_int(past, 0, INT32_MAX - 64);
    s.fresh = clamp_int(fresh, 0, tokens);
    s.units = 1;
    if (s.fresh == 0) return s;
    const int held = past + s.fresh, recent = ring - kGroup;
    const int due = held < sink + recent ? 0 : (held - sink - recent) / kGroup;
    const int quantised = due < capacity_blocks ? due : capacity_blocks;
    const int behind_sinks = past > sink ? past - sink : 0;  // older tokens that are no sinks
    s.sinks = past - behind_sinks;
    s.tail = clamp_int(behind_sinks - kGroup * quantised, 0, ring);
    s.tail_slot = (behind_sinks - s.tail) % ring;
    const int older_blocks = (behind_sinks + kGroup - 1) / kGroup;
    s.blocks = quantised < older_blocks ? quantised : older_blocks;
    s.last_tokens = clamp_int(behind_sinks - kGroup * (s.blocks - 1), 0, kGroup);
    s.chunks = (s.sinks + s.tail + s.fresh + kWindowTokens - 1) / kWindowTokens;
    s.units = s.chunks * kWindowUnits + s.blocks;
    return s;
}

// Cutting `total` units into `parts`: part p is [cut(p), cut(p + 1)).
struct Cuts {
    int64_t total;
    int parts;
    INNERQ_HD int64_t cut(int p) const { return total * p / parts; }
    INNERQ_HD int part_of(int64_t unit) const { return static_cast<int>(((unit + 1) * parts - 1) / total); }
};

// Parts worth starting for `total` units.
INNERQ_HD inline int useful_parts(int64_t total, int available) {
    const int64_t most = total / kLeastUnits;
    return most < 1 ? 1 : most < available ? static_cast<int>(most) : available;
}

}  // namespace innerq::attend
