// One 32 x 32 tile of a record, worked on by a warp: its cells in scratch memory, its codes and scales in the record.
//
// A step is written once, as a function of the lane, and run by `Warp`: on the GPU every lane runs it and the warp
// synchronises; on the host a loop runs the 32 lanes one after the other. So both do the same arithmetic.
#pragma once

#include "innerq/cache.cuh"
#include "innerq/quantise.cuh"

namespace innerq {

struct Warp {
    template <class Step>
    INNERQ_HD void operator()(const Step &step) const {
#ifdef __CUDA_ARCH__
        step(static_cast<int>(threadIdx.x % 32));
        __syncwarp();
#else
        for (int lane = 0; lane < 32; ++lane) step(lane);
#endif
    }
};

// Which tile: `tile` counts 32 channels. Rows of `cells` are tokens, columns channels, for keys and for values.
struct TilePlace {
    int batch, head, part, tile;
};

// 33 columns: rows and columns are both read without bank conflicts. A cell is a stored code or the bits of a float.
struct TileScratch {
    uint32_t cells[kGroup][kGroup + 1];
    float lambda[kGroup];
};

// A group is a row of the tile for keys (one token, 32 channels), a column for values (one channel, 32 tokens).
INNERQ_HD inline uint32_t &group_cell(TileScratch &scratch, int part, int group, int i) {
    return part == kKeys ? scratch.cells[group][i] : scratch.cells[i][group];
}

// Parts of one record that belong to the keys or to the values.
struct TileParts {
    uint32_t *codes;
    uint16_t *scales, *zeros;  // zeros: NULL where the mode has none
    int tiles, bits, mode;
};

INNERQ_HD inline TileParts parts_of(const CacheParams &cache, uint8_t *record, int part) {
    const RecordLayout layout = layout_of(cache);
    const bool keys = part == kKeys;
    const int zeros = keys ? layout.key_zeros : layout.value_zeros;
    return {reinterpret_cast<uint32_t *>(record + (keys ? layout.key_codes : layout.value_codes)),
            reinterpret_cast<uint16_t *>(record + (keys ? layout.key_scales : layout.value_scales)),
            zeros < 0 ? nullptr : reinterpret_cast<uint16_t *>(record + zeros),
            layout.tiles,
            keys ? layout.key_bits : layout.value_bits,
            keys ? cache.key_mode : cache.value_mode};
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

// The cell of slot (lane, sub, cls, half): layout.cuh.
INNERQ_HD inline uint32_t &slot_cell(TileScratch &scratch, int part, int lane, int sub, int cls, int half) {
    if (part == kKeys) return scratch.cells[key_slot_token(lane, sub)][key_slot_channel(lane, cls, half)];
    return scratch.cells[value_slot_token(lane, cls, half)][value_slot_channel(lane, sub)];
}

// Whether the bits of the code lie in several words (bit 15 of each half): the sixteenth slot of 3-bit tiles.
INNERQ_HD constexpr bool is_split(int bits, int cls, int sub) {
    return bit_place(bits, cls, sub, 0).word != bit_place(bits, cls, sub, bits - 1).word;
}

// A lane's code words of one tile from its 32 cells.
template <int Bits>
INNERQ_HD inline void pack_words(TileScratch &scratch, int part, int lane, uint32_t (&words)[Bits]) {
    INNERQ_UNROLL
    for (uint32_t &word : words) word = 0;
    INNERQ_UNROLL
    for (int place = 0; place < 32; ++place) {
        const int sub = place / 8, cls = place / 2 % 4, half = place % 2;
        const uint32_t code = slot_cell(scratch, part, lane, sub, cls, half);
        if (is_split(Bits, cls, sub)) {
            INNERQ_UNROLL
            for (int i = 0; i < Bits; ++i) words[i] |= ((code >> i) & 1u) << (15 + 16 * half);
        } else {
            const BitPlace at = bit_place(Bits, cls, sub, 0);
            words[at.word] |= (code & ((1u << Bits) - 1u)) << (at.bit + 16 * half);
        }
    }
}

// The inverse of pack_words: fills the lane's 32 cells.
template <int Bits>
INNERQ_HD inline void unpack_words(TileScratch &scratch, int part, int lane, const uint32_t (&words)[Bits]) {
    INNERQ_UNROLL
    for (int place = 0; place < 32; ++place) {
        const int sub = place / 8, cls = place / 2 % 4, half = place % 2;
        uint32_t code = 0;
        if (is_split(Bits, cls, sub)) {
            INNERQ_UNROLL
            for (int i = 0; i < Bits; ++i) code |= ((words[i] >> (15 + 16 * half)) & 1u) << i;
        } else {
            const BitPlace at = bit_place(Bits, cls, sub, 0);
            code = (words[at.word] >> (at.bit + 16 * half)) & ((1u << Bits) - 1u);
        }
        slot_cell(scratch, part, lane, sub, cls, half) = code;
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

// Writes a lane's share of the codes in `scratch` to the record.
INNERQ_HD inline void store_codes(const TileParts &parts, TileScratch &scratch, int part, int tile, int lane) {
    if (parts.bits == 2) return store_lane<2>(parts, scratch, part, tile, lane);
    if (parts.bits == 3) return store_lane<3>(parts, scratch, part, tile, lane);
    if (parts.bits == 4) return store_lane<4>(parts, scratch, part, tile, lane);
    store_lane<8>(parts, scratch, part, tile, lane);
}

// Reads a lane's share of the codes of the record into `scratch`.
INNERQ_HD inline void load_codes(const TileParts &parts, TileScratch &scratch, int part, int tile, int lane) {
    if (parts.bits == 2) return load_lane<2>(parts, scratch, part, tile, lane);
    if (parts.bits == 3) return load_lane<3>(parts, scratch, part, tile, lane);
    if (parts.bits == 4) return load_lane<4>(parts, scratch, part, tile, lane);
    load_lane<8>(parts, scratch, part, tile, lane);
}

}  // namespace innerq
