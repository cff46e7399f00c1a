// Record layout of the packed cache, v1: where every bit of a block of 32 tokens of one KV head lies.
//
// Record = key codes | key scales | value codes | value scales | [value zeros] | [key zeros], no padding between.
// T = D / 32 tiles of 32 x 32 codes for keys and as many for values; every part is a multiple of 64 T bytes.
//
//   tile        rows (M of the mma)      columns (K of the mma)      scales (and zeros) of the tile
//   key  t      token r                  channel 32 t + c            32, one per token
//   value t     channel 32 t + r         token c                     32, one per channel
//
// Order = the A operand of mma.m16n8k16, so that a lane finds its own codes in its own words. A code's `Slot` is
//   lane  = 4 g + q          g = the mma's row group 0..7, q = the lane's quad index 0..3
//   sub   = 2 (16-row tile) + (row half)          0..3
//   cls   = 2 (16-column tile) + (column half)    0..3
//   half  = 0 or 1: low or high 16 bits of the word
//   key:    r = 8 sub + g,  c = 8 q + 2 cls + half     (a lane holds 8 neighbouring channels of a query: one 16-byte load)
//   value:  r = 4 g + sub,  c = 8 cls + 2 q + half     (a lane holds 4 neighbouring channels of the output)
//
// A lane keeps `bits` words per tile; word n = tile * bits + w of the lane stands, 16 bytes at a time, at
//   k = n / 4, width = min(4, T bits - 4 k):   word index of the part = 128 k + lane width + n % 4
//
// Inside a word both 16-bit halves have the same fields. `bit_place` says where bit i of a code lies. A field masked out
// at bit p <= 8 of a half is the fp16 number v 2^(p - 24) exactly; `position` is p after the one shift of `shift_of`:
//   bits 2, 4, 8   L = 4 sub + cls, f = 16 / bits fields: word L / f, bit bits (L mod f); bits 8.. are shifted down by 8
//   bits 3         cls 0..2, sub 0..2:  word sub, bit 3 cls
//                  cls 0..1, sub 3:     word 0, bit 9 + 3 cls           (shift 9)
//                  cls 2,    sub 3:     word i, bit 15: the spare bits  (position 6)
//                  cls 3:               word 1 + sub % 2, bit 9 + 3 (sub / 2)   (shift 8)
// so the position depends on cls alone, but for 3-bit cls 3: 1 in the first 16-row tile, 4 in the second.
//
// Scale of row (g, sub) of tile t: fp16 number 4 (T g + t) + sub of its part.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define INNERQ_HD __host__ __device__
#else
#define INNERQ_HD
#endif

namespace innerq {

inline constexpr int kGroup = 32;  // tokens of a block, and elements of a quantisation group
inline constexpr int kLayoutVersion = 1;

// Byte offsets of a record's parts; a part that the mode does not have has offset -1. bytes % 128 == 0.
struct RecordLayout {
    int tiles, key_bits, value_bits;
    int key_codes, key_scales, value_codes, value_scales, value_zeros, key_zeros, bytes;
};

// head_dim 64, 128, 256; bits 2, 3, 4, 8; zeros are stored by the modes asymmetric and hybrid. That of a symmetric group of
// hybrid is 0, on which attention relies.
INNERQ_HD constexpr RecordLayout record_layout(int head_dim, int key_bits, bool key_zeros, int value_bits,
                                               bool value_zeros) {
    RecordLayout r{};
    r.tiles = head_dim / kGroup;
    r.key_bits = key_bits;
    r.value_bits = value_bits;
    const int scales = 64 * r.tiles;
    int at = 0;
    r.key_codes = at;
    r.key_scales = at += 128 * key_bits * r.tiles;
    r.value_codes = at += scales;
    r.value_scales = at += 128 * value_bits * r.tiles;
    at += scales;
    r.value_zeros = value_zeros ? at : -1;
    at += value_zeros ? scales : 0;
    r.key_zeros = key_zeros ? at : -1;
    at += key_zeros ? scales : 0;
    r.bytes = at;
    return r;
}

// Place of one code in fragment order (see above).
struct Slot {
    int lane, sub, cls, half;
};

INNERQ_HD constexpr Slot key_slot(int token, int channel) {
    return {4 * (token & 7) + (channel >> 3), token >> 3, (channel >> 1) & 3, channel & 1};
}
INNERQ_HD constexpr Slot value_slot(int channel, int token) {
    return {4 * (channel >> 2) + ((token >> 1) & 3), channel & 3, token >> 3, token & 1};
}
INNERQ_HD constexpr int key_slot_token(int lane, int sub) { return 8 * sub + (lane >> 2); }
INNERQ_HD constexpr int key_slot_channel(int lane, int cls, int half) { return 8 * (lane & 3) + 2 * cls + half; }
INNERQ_HD constexpr int value_slot_channel(int lane, int sub) { return 4 * (lane >> 2) + sub; }
INNERQ_HD constexpr int value_slot_token(int lane, int cls, int half) { return 8 * cls + 2 * (lane & 3) + half; }

// Word among the lane's words of one tile, and bit 0..15 within the half.
struct BitPlace {
    int word, bit;
};

// Where bit i of the code in (cls, sub) lies.
INNERQ_HD constexpr BitPlace bit_place(int bits, int cls, int sub, int i) {
    if (bits != 3) {
        const int fields = 16 / bits, index = 4 * sub + cls;
        return {index / fields, bits * (index % fields) + i};
    }
    if (cls == 3) return {1 + (sub & 1), 9 + 3 * (sub >> 1) + i};
    if (sub < 3) return {sub, 3 * cls + i};
    if (cls < 2) return {0, 9 + 3 * cls + i};
    return {i, 15};
}

// Right shift that brings the high fields of word `w` of a tile into the 11 linear bits of fp16.
INNERQ_HD constexpr int shift_of(int bits, int w) { return bits == 3 && w == 0 ? 9 : 8; }

// Bit position of the field as an fp16 number: the code counts as v 2^(position - 24).
INNERQ_HD constexpr int position(int bits, int cls, int sub) {
    if (bits == 3) return cls < 3 ? 3 * cls : 1 + 3 * (sub >> 1);
    return (bits * cls) & 7;
}
INNERQ_HD constexpr int max_position(int bits) { return bits == 8 ? 0 : bits == 4 ? 4 : 6; }

// Index, in 32-bit words from the start of a code part, of word w of `lane` and `tile`.
INNERQ_HD constexpr int code_word(int tiles, int bits, int tile, int lane, int w) {
    const int n = tile * bits + w, chunk = n / 4, left = tiles * bits - 4 * chunk;
    return 128 * chunk + lane * (left < 4 ? left : 4) + n % 4;
}

// Index, in fp16 numbers from the start of a scale or zero part; row group g and sub as in Slot.
INNERQ_HD constexpr int scale_index(int tiles, int tile, int g, int sub) { return 4 * (tiles * g + tile) + sub; }
INNERQ_HD constexpr int key_scale_index(int tiles, int tile, int token) {
    return scale_index(tiles, tile, token & 7, token >> 3);
}
INNERQ_HD constexpr int value_scale_index(int tiles, int channel) {
    return scale_index(tiles, channel >> 5, (channel & 31) >> 2, channel & 3);
}

// Reads and writes one stored code (0 .. 2^bits - 1) of a code part; any bits, slow and plain. `put_code` needs zeroed
// words.
INNERQ_HD inline uint32_t get_code(const uint32_t *part, int tiles, int bits, int tile, Slot s) {
    uint32_t code = 0;
    for (int i = 0; i < bits; ++i) {
        const BitPlace p = bit_place(bits, s.cls, s.sub, i);
        code |= ((part[code_word(tiles, bits, tile, s.lane, p.word)] >> (p.bit + 16 * s.half)) & 1u) << i;
    }
    return code;
}
INNERQ_HD inline void put_code(uint32_t *part, int tiles, int bits, int tile, Slot s, uint32_t code) {
    for (int i = 0; i < bits; ++i) {
        const BitPlace p = bit_place(bits, s.cls, s.sub, i);
        part[code_word(tiles, bits, tile, s.lane, p.word)] |= ((code >> i) & 1u) << (p.bit + 16 * s.half);
    }
}

}  // namespace innerq
