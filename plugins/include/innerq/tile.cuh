// One 32 x 32 tile of a block, worked on by a warp: 32 tokens of 32 neighbouring channels of keys or of values.
//
// A step is written once, as a function of the lane, and run by `Warp`: on the GPU every lane runs it and the warp
// synchronises; on the host a loop runs the 32 lanes one after the other. So both do the same arithmetic.
#pragma once

#include "innerq/cache.cuh"

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

// What a lane keeps from one step to the next: registers on the GPU.
template <class T>
struct PerLane {
#ifdef __CUDA_ARCH__
    T own;
    __device__ T &operator[](int) { return own; }
#else
    T of_lane[32];
    T &operator[](int lane) { return of_lane[lane]; }
#endif
};

// Which tile of every block: `tile` counts 32 channels.
struct TilePlace {
    int batch, head, part, tile;
};

// Activations by token, and stored codes by group: a group is a token of a key tile, a channel of a value tile. Rows
// are padded so that 16-byte accesses of a warp, one row a lane, touch every bank equally.
struct TileScratch {
    alignas(16) uint32_t rows[kGroup][20];   // 32 activations of a token, two a word
    alignas(16) uint32_t codes[kGroup][12];  // 32 codes of a group, a byte each, in the order of `code_place`
    float lambda[kGroup], inverse[kGroup];   // of the 32 channels, keys only
};

// A code's byte within its group: 8 q + 2 cls + half of layout.cuh's slots, so that the eight codes of a group that one
// lane of the record holds are neighbours. `i` is the channel of a key group, the token of a value group.
INNERQ_HD constexpr int code_place(int part, int i) {
    return part == kKeys ? i : 8 * ((i >> 1) & 3) + 2 * (i >> 3) + (i & 1);
}

// The inverse of code_place.
INNERQ_HD constexpr int code_at(int part, int place) {
    return part == kKeys ? place : 8 * ((place >> 1) & 3) + 2 * (place >> 3) + (place & 1);
}

INNERQ_HD inline uint8_t *code_bytes(TileScratch &scratch, int group) {
    return reinterpret_cast<uint8_t *>(scratch.codes[group]);
}

INNERQ_HD inline uint8_t &code_byte(TileScratch &scratch, int part, int token, int channel) {
    return part == kKeys ? code_bytes(scratch, token)[channel]
                         : code_bytes(scratch, channel)[code_place(kValues, token)];
}

INNERQ_HD inline uint16_t *activation_row(TileScratch &scratch, int token) {
    return reinterpret_cast<uint16_t *>(scratch.rows[token]);
}

// The 32 numbers of a group: a row of a key tile, a column of a value tile.
INNERQ_HD inline void read_group(TileScratch &scratch, int part, int group, bool bf16, float (&x)[kGroup]) {
    uint16_t bits[kGroup];
    INNERQ_UNROLL
    for (int i = 0; i < kGroup; ++i)
        bits[i] = part == kKeys ? activation_row(scratch, group)[i] : activation_row(scratch, i)[group];
    if (bf16) {
        INNERQ_UNROLL
        for (int i = 0; i < kGroup; ++i) x[i] = from_bfloat(bits[i]);
    } else {
        INNERQ_UNROLL
        for (int i = 0; i < kGroup; ++i) x[i] = from_half(bits[i]);
    }
}

// Copies 32 activations between memory and a scratch row.
INNERQ_HD inline void load_row(TileScratch &scratch, int token, const uint16_t *from) {
    Chunk chunks[4];
    INNERQ_UNROLL
    for (int i = 0; i < 4; ++i) chunks[i] = load_chunk(from + 8 * i);
    INNERQ_UNROLL
    for (int i = 0; i < 4; ++i) store_chunk(activation_row(scratch, token) + 8 * i, chunks[i]);
}

INNERQ_HD inline void store_row(TileScratch &scratch, int token, uint16_t *to) {
    INNERQ_UNROLL
    for (int i = 0; i < 4; ++i) store_chunk(to + 8 * i, load_chunk(activation_row(scratch, token) + 8 * i));
}

}  // namespace innerq
