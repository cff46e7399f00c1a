// The stored codes of a lane and the words of the record that hold them, both ways.
#pragma once

#include "innerq/lanes.cuh"
#include "innerq/record.cuh"

namespace innerq {

constexpr int kGroups = 4, kOfGroup = 8;  // groups of a lane (`sub` of layout.cuh), its numbers of each (2 cls + half)

// A lane's codes of one tile by sub and cls; both halves of a word have the same fields, so two codes move at a time.
struct CodePairs {
    uint32_t of[kGroups][kOfGroup / 2];
};

// Whether the bits of a code lie in several words, bit 15 of each half: the sixteenth slot of 3-bit tiles.
INNERQ_HD constexpr bool is_split(int bits, int cls, int sub) {
    return bit_place(bits, cls, sub, 0).word != bit_place(bits, cls, sub, bits - 1).word;
}

template <int Bits>
INNERQ_HD inline void store_words(const TileParts &parts, int tile, int lane, const CodePairs &pairs) {
    uint32_t words[Bits] = {};
    INNERQ_UNROLL
    for (int place = 0; place < 16; ++place) {
        const int sub = place / 4, cls = place % 4;
        const uint32_t pair = pairs.of[sub][cls];
        if (is_split(Bits, cls, sub)) {
            INNERQ_UNROLL
            for (int i = 0; i < Bits; ++i) words[i] |= ((pair >> i) & 0x00010001u) << 15;
        } else {
            const BitPlace at = bit_place(Bits, cls, sub, 0);
            words[at.word] += pair << at.bit;
        }
    }
    INNERQ_UNROLL
    for (int w = 0; w < Bits; ++w) parts.codes[code_word(parts.tiles, Bits, tile, lane, w)] = words[w];
}

template <int Bits>
INNERQ_HD inline void load_words(const TileParts &parts, int tile, int lane, CodePairs &pairs) {
    constexpr uint32_t kMask = ((1u << Bits) - 1u) * 0x00010001u;
    uint32_t words[Bits];
    INNERQ_UNROLL
    for (int w = 0; w < Bits; ++w) words[w] = parts.codes[code_word(parts.tiles, Bits, tile, lane, w)];
    INNERQ_UNROLL
    for (int place = 0; place < 16; ++place) {
        const int sub = place / 4, cls = place % 4;
        uint32_t pair = 0;
        if (is_split(Bits, cls, sub)) {
            INNERQ_UNROLL
            for (int i = 0; i < Bits; ++i) pair |= ((words[i] >> 15) & 0x00010001u) << i;
        } else {
            const BitPlace at = bit_place(Bits, cls, sub, 0);
            pair = (words[at.word] >> at.bit) & kMask;
        }
        pairs.of[sub][cls] = pair;
    }
}

// The lane's share of a tile's codes into the record.
INNERQ_HD inline void store_codes(const TileParts &parts, int tile, int lane, const CodePairs &pairs) {
    if (parts.bits == 2) return store_words<2>(parts, tile, lane, pairs);
    if (parts.bits == 3) return store_words<3>(parts, tile, lane, pairs);
    if (parts.bits == 4) return store_words<4>(parts, tile, lane, pairs);
    store_words<8>(parts, tile, lane, pairs);
}

// And out of it.
INNERQ_HD inline void load_codes(const TileParts &parts, int tile, int lane, CodePairs &pairs) {
    if (parts.bits == 2) return load_words<2>(parts, tile, lane, pairs);
    if (parts.bits == 3) return load_words<3>(parts, tile, lane, pairs);
    if (parts.bits == 4) return load_words<4>(parts, tile, lane, pairs);
    load_words<8>(parts, tile, lane, pairs);
}

}  // namespace innerq
