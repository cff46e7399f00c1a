// Codes of a record as operands of the tensor cores.
//
// A field masked out at bit p of a 16-bit half is v 2^(p - 24) in fp16, exactly (a subnormal, or the binade above it):
// no conversion at all. The power of two goes to the other operand of the product (`operand_exponent`), so that every
// product of one part carries the same factor 2^-unit_exponent.
#pragma once

#include "innerq/attend_ptx.cuh"
#include "innerq/layout.cuh"

namespace innerq::attend {

// How the scale of a group is to be read; see SPEC section 4.
enum Zero : int { kNoZero = 0, kZero = 1, kHybridZero = 2 };

// Bits and zero of one part (keys or values), known to the compiler ...
template <int kBits, int kKind>
struct FixedCodes {
    static constexpr bool fixed = true;
    static constexpr int fixed_bits = kBits;
    static constexpr bool offset_in_accumulator = kKind == kNoZero;
    static constexpr bool zeros_by_product = kKind == kHybridZero;  // of values
    __device__ constexpr int bits() const { return kBits; }
    __device__ constexpr int zero() const { return kKind; }
};

// ... or at run time.
struct AnyCodes {
    static constexpr bool fixed = false;
    static constexpr int fixed_bits = 0;
    static constexpr bool offset_in_accumulator = false;
    static constexpr bool zeros_by_product = false;
    int bit_count, zero_kind;
    __device__ int bits() const { return bit_count; }
    __device__ int zero() const { return zero_kind; }
};

// Calls f(std::integral_constant-like tag) with the part's bits as a compile-time constant.
template <int kBits>
struct Bits {
    static constexpr int value = kBits;
};
template <class Codes, class F>
__device__ __forceinline__ void with_bits(const Codes &codes, F &&f) {
    if constexpr (Codes::fixed) {
        f(Bits<Codes::fixed_bits>{});
    } else {
        switch (codes.bits()) {
            case 2:
                return f(Bits<2>{});
            case 3:
                return f(Bits<3>{});
            case 4:
                return f(Bits<4>{});
            default:
                return f(Bits<8>{});
        }
    }
}

__device__ constexpr int code_offset(int bits) { return 1 << (bits - 1); }

// Exponent by which the operand that meets (cls, 16-row tile) is raised, and the common one that is left.
__device__ constexpr int operand_exponent(int bits, int cls, int row_tile) {
    return max_position(bits) - position(bits, cls, 2 * row_tile);
}
__device__ constexpr int unit_exponent(int bits) { return 24 - max_position(bits); }

// The constant code v in every element of class `cls` (first 16-row tile), as an operand; v < 2^bits, sign in front.
__device__ constexpr uint32_t constant_code(int bits, int cls, int v, bool negative) {
    return ((static_cast<uint32_t>(v) << position(bits, cls, 0)) | (negative ? 0x8000u : 0u)) * 0x00010001u;
}

// This lane's words of a code part of T tiles, 16 bytes at a time.
template <int kTiles, int kBits>
__device__ __forceinline__ void load_words(const char *part, int lane, uint32_t (&words)[kTiles * kBits]) {
    constexpr int kChunks = kTiles * kBits / 4;
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
        const uint4 x = *reinterpret_cast<const uint4 *>(part + 512 * k + 16 * lane);
        words[4 * k] = x.x, words[4 * k + 1] = x.y, words[4 * k + 2] = x.z, words[4 * k + 3] = x.w;
    }
    if constexpr (kTiles * kBits % 4 == 2) {
        const uint2 x = *reinterpret_cast<const uint2 *>(part + 512 * kChunks + 8 * lane);
        words[4 * kChunks] = x.x, words[4 * kChunks + 1] = x.y;
    }
}

// The 16 half2 of one tile: codes[4 cls + sub].
template <int kBits>
__device__ __forceinline__ void unpack_tile(const uint32_t *words, uint32_t (&codes)[16]) {
    uint32_t shifted[kBits];
#pragma unroll
    for (int w = 0; w < kBits; ++w) shifted[w] = words[w] >> shift_of(kBits, w);
#pragma unroll
    for (int cls = 0; cls < 4; ++cls)
#pragma unroll
        for (int sub = 0; sub < 4; ++sub) {
            const BitPlace place = bit_place(kBits, cls, sub, 0);
            const uint32_t mask = (((1u << kBits) - 1u) << position(kBits, cls, sub)) * 0x00010001u;
            if (kBits == 3 && place.bit == 15)  // the three spare bits, at positions 6, 7 and 8
                codes[4 * cls + sub] =
                    (shifted[0] & 0x00400040u) | (shifted[1] & 0x00800080u) | ((shifted[2] << 1) & 0x01000100u);
            else
                codes[4 * cls + sub] = (place.bit >= 8 ? shifted[place.word] : words[place.word]) & mask;
        }
}

// Scales or zeros of this lane's four rows of tile t: half2 words 2t (sub 0, 1) and 2t + 1 (sub 2, 3).
template <int kTiles>
__device__ __forceinline__ void load_scales(const char *part, int group, uint32_t (&scales)[2 * kTiles]) {
#pragma unroll
    for (int k = 0; k < kTiles / 2; ++k) {
        const uint4 x = *reinterpret_cast<const uint4 *>(part + 8 * kTiles * group + 16 * k);
        scales[4 * k] = x.x, scales[4 * k + 1] = x.y, scales[4 * k + 2] = x.z, scales[4 * k + 3] = x.w;
    }
}

// The same as pairs of registers, which is what operands need: loads that the compiler does not join. part: from this
// lane's row group on.
template <int kTiles>
__device__ __forceinline__ void load_pairs(const char *part, uint32_t (&numbers)[2 * kTiles]) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) load_shared_pair(shared_address(part) + 8 * t, numbers[2 * t], numbers[2 * t + 1]);
}

// Stored scale and zero of a group -> value = scale code + zero for the stored (offset) code, whatever the mode.
__device__ __forceinline__ void affine(int kind, int offset, float &scale, float &zero) {
    const float of_offset = -static_cast<float>(offset) * scale;
    if (kind == kNoZero) {
        zero = of_offset;
    } else if (kind == kHybridZero) {
        zero = __float_as_uint(scale) >> 31 ? zero : of_offset;
        scale = fabsf(scale);
    }
}

}  // namespace innerq::attend
