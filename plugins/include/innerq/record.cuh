// A tile's share of a record: codes between scratch memory and the fragment order of layout.cuh, scales and zeros.
#pragma once

#include "innerq/quantise.cuh"
#include "innerq/tile.cuh"

namespace innerq {

// Parts of one record that belong to the keys or to the values.
struct TileParts {
    uint32_t *codes;
    uint16_t *scales, *zeros;  // zeros: NULL where the mode has none
    int tiles, bits, mode;
};

INNERQ_HD inline TileParts parts_of(const CacheParams &cache, uint8_t *record, int part) {
    const PartPlan &plan = cache.parts[part];
    return {reinterpret_cast<uint32_t *>(record + plan.codes),
            reinterpret_cast<uint16_t *>(record + plan.scales),
            plan.zeros < 0 ? nullptr : reinterpret_cast<uint16_t *>(record + plan.zeros),
            cache.head_dim / kGroup,
            plan.bits,
            plan.mode};
}

// fp16 index of a group's scale in its part; `group` is a token of a key tile or a channel of a value tile.
INNERQ_HD inline int group_scale_index(const TileParts &parts, int part, int tile, int group) {
    return part == kKeys ? key_scale_index(parts.tiles, tile, group)
                         : value_scale_index(parts.tiles, kGroup * tile + group);
}

INNERQ_HD inline void store_scale(const TileParts &parts, int part, int tile, int group, GroupScale scale) {
    const int index = group_scale_index(parts, part, tile, group);
    parts.scales[index] = scale.scale;
    if (parts.zeros != nullptr) parts.zeros[index] = scale.zero;
}

INNERQ_HD inline GroupScale load_scale(const TileParts &parts, int part, int tile, int group) {
    const int index = group_scale_index(parts, part, tile, group);
    return {parts.scales[index], parts.zeros != nullptr ? parts.zeros[index] : static_cast<uint16_t>(0)};
}

// Group whose codes are in (lane, sub) of the record.
INNERQ_HD constexpr int slot_group(int part, int lane, int sub) {
    return part == kKeys ? key_slot_token(lane, sub) : value_slot_channel(lane, sub);
}

// Whether the bits of a code lie in several words, bit 15 of each half: the sixteenth slot of 3-bit tiles.
INNERQ_HD constexpr bool is_split(int bits, int cls, int sub) {
    return bit_place(bits, cls, sub, 0).word != bit_place(bits, cls, sub, bits - 1).word;
}

// Bytes 2 i and 2 i + 1 of a word as the low bytes of its two halves, and back.
INNERQ_HD inline uint32_t spread_bytes(uint32_t word, int i) {
#ifdef __CUDA_ARCH__
    return __byte_perm(word, 0, i == 0 ? 0x4140 : 0x4342);
#else
    const uint32_t pair = word >> (16 * i);
    return (pair & 0xffu) | ((pair & 0xff00u) << 8);
#endif
}

INNERQ_HD inline uint32_t join_bytes(uint32_t halves) { return (halves & 0xffu) | ((halves >> 8) & 0xff00u); }

// A lane's code words of one tile. Both halves of a word have the same fields, so two codes move at a time.
template <int Bits>
INNERQ_HD inline void pack_words(TileScratch &scratch, int part, int lane, uint32_t (&words)[Bits]) {
    INNERQ_UNROLL
    for (uint32_t &word : words) word = 0;
    INNERQ_UNROLL
    for (int place = 0; place < 16; ++place) {
        const int sub = place / 4, cls = place % 4;
        const uint32_t four = scratch.codes[slot_group(part, lane, sub)][2 * (lane & 3) + cls / 2];
        const uint32_t pair = spread_bytes(four, cls % 2);
        if (is_split(Bits, cls, sub)) {
            INNERQ_UNROLL
            for (int i = 0; i < Bits; ++i) words[i] |= ((pair >> i) & 0x00010001u) << 15;
        } else {
            const BitPlace at = bit_place(Bits, cls, sub, 0);
            words[at.word] |= pair << at.bit;
        }
    }
}

// The inverse of pack_words.
template <int Bits>
INNERQ_HD inline void unpack_words(TileScratch &scratch, int part, int lane, const uint32_t (&words)[Bits]) {
    constexpr uint32_t kMask = ((1u << Bits) - 1u) * 0x00010001u;
    INNERQ_UNROLL
    for (int place = 0; place < 8; ++place) {
        const int sub = place / 2, first = 2 * (place % 2);
        uint32_t four = 0;
        INNERQ_UNROLL
        for (int cls = first; cls < first + 2; ++cls) {
            const BitPlace at = bit_place(Bits, cls, sub, 0);
            uint32_t pair = (words[at.word] >> at.bit) & kMask;
            if (is_split(Bits, cls, sub)) {
                pair = 0;
                INNERQ_UNROLL
                for (int i = 0; i < Bits; ++i) pair |= ((words[i] >> 15) & 0x00010001u) << i;
            }
            four |= join_bytes(pair) << (16 * (cls - first));
        }
        scratch.codes[slot_group(part, lane, sub)][2 * (lane & 3) + place % 2] = four;
    }
}

template <int Bits>
INNERQ_HD inline void store_lane(const TileParts &parts, TileScratch &scratch, int part, int tile, int lane) {
    uint32_t words[Bits];
    pack_words<Bits>(scratch, part, lane, words);
    INNERQ_UNROLL
    for (int w = 0; w < Bits; ++w) parts.codes[code_word(parts.tiles, Bits, tile, lane, w)] = words[w];
}

template <int Bits>
INNERQ_HD inline void load_lane(const TileParts &parts, TileScratch &scratch, int part, int tile, int lane) {
    uint32_t words[Bits];
    INNERQ_UNROLL
    for (int w = 0; w < Bits; ++w) words[w] = parts.codes[code_word(parts.tiles, Bits, tile, lane, w)];
    unpack_words<Bits>(scratch, part, lane, words);
}

// Writes a lane's share of the codes in scratch to the record.
INNERQ_HD inline void store_codes(const TileParts &parts, TileScratch &scratch, int part, int tile, int lane) {
    if (parts.bits == 2) return store_lane<2>(parts, scratch, part, tile, lane);
    if (parts.bits == 3) return store_lane<3>(parts, scratch, part, tile, lane);
    if (parts.bits == 4) return store_lane<4>(parts, scratch, part, tile, lane);
    store_lane<8>(parts, scratch, part, tile, lane);
}

// Reads a lane's share of the codes of the record into scratch.
INNERQ_HD inline void load_codes(const TileParts &parts, TileScratch &scratch, int part, int tile, int lane) {
    if (parts.bits == 2) return load_lane<2>(parts, scratch, part, tile, lane);
    if (parts.bits == 3) return load_lane<3>(parts, scratch, part, tile, lane);
    if (parts.bits == 4) return load_lane<4>(parts, scratch, part, tile, lane);
    load_lane<8>(parts, scratch, part, tile, lane);
}

}  // namespace innerq
