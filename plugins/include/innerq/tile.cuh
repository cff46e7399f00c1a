// One 32 x 32 tile of a block, worked on by a team of threads: 32 tokens of 32 neighbouring channels of keys or of
// values. kMembers threads share a group of 32 numbers.
//
// A step is written once, as a function of the thread, and run by `Team`: on the GPU every thread of the CTA runs it
// and the CTA synchronises; on the host a loop runs the threads one after the other. So both do the same arithmetic.
#pragma once

#include "innerq/cache.cuh"

namespace innerq {

constexpr int kMembers = 4, kTeam = kGroup * kMembers, kShare = kGroup / kMembers;

struct Team {
    template <class Step>
    INNERQ_HD void operator()(const Step &step) const {
#ifdef __CUDA_ARCH__
        step(static_cast<int>(threadIdx.x));
        __syncthreads();
#else
        for (int thread = 0; thread < kTeam; ++thread) step(thread);
#endif
    }
};

// What a thread keeps from one step to the next: registers on the GPU.
template <class T>
struct PerThread {
#ifdef __CUDA_ARCH__
    T own;
    __device__ T &operator[](int) { return own; }
#else
    T of_thread[kTeam];
    T &operator[](int thread) { return of_thread[thread]; }
#endif
};

// The group a thread works on, and which of its numbers: member, member + kMembers, ... so that sums of numbers far
// apart, which SPEC section 4 forms first, stay within the thread.
INNERQ_HD constexpr int group_of(int thread) { return thread / kMembers; }
INNERQ_HD constexpr int member_of(int thread) { return thread % kMembers; }
INNERQ_HD constexpr int element_of(int thread, int k) { return member_of(thread) + kMembers * k; }

// Which tile of every block: `tile` counts 32 channels.
struct TilePlace {
    int batch, head, part, tile;
};

// Activations by token, and stored codes by group: a group is a token of a key tile, a channel of a value tile. Rows
// are padded so that a warp's accesses, by rows or by columns, touch every bank equally.
struct TileScratch {
    alignas(16) uint32_t rows[kGroup][20];   // 32 activations of a token, two a word
    alignas(16) uint32_t codes[kGroup][12];  // 32 codes of a group, a byte each, in the order of `code_place`
    float lambda[kGroup];                    // of the 32 channels, keys only
};

// A code's byte within its group: 8 q + 2 cls + half of layout.cuh's slots, so that the eight codes of a group that one
// lane of the record holds are neighbours. `i` is the channel of a key group, the token of a value group.
INNERQ_HD constexpr int code_place(int part, int i) {
    return part == kKeys ? i : 8 * ((i >> 1) & 3) + 2 * (i >> 3) + (i & 1);
}

INNERQ_HD inline uint8_t *code_bytes(TileScratch &scratch, int group) {
    return reinterpret_cast<uint8_t *>(scratch.codes[group]);
}

INNERQ_HD inline uint16_t *activation_row(TileScratch &scratch, int token) {
    return reinterpret_cast<uint16_t *>(scratch.rows[token]);
}

// Number i of a group: along the row of a key tile, down the column of a value tile.
INNERQ_HD inline uint16_t &group_number(TileScratch &scratch, int part, int group, int i) {
    return part == kKeys ? activation_row(scratch, group)[i] : activation_row(scratch, i)[group];
}

INNERQ_HD inline uint8_t &group_code(TileScratch &scratch, int part, int group, int i) {
    return code_bytes(scratch, group)[code_place(part, i)];
}

// A tile of activations moves 16 bytes at a time: chunk c is 8 channels of token c / 4.
constexpr int kChunks = 4 * kGroup, kChunkShare = kChunks / kTeam;

struct ChunkPlace {
    int token, channel;
};

INNERQ_HD constexpr ChunkPlace chunk_of(int thread, int k) {
    return {(thread + kTeam * k) / 4, 8 * ((thread + kTeam * k) % 4)};
}

struct ChunkSet {
    Chunk of[kChunkShare];
};

INNERQ_HD inline uint16_t *scratch_chunk(TileScratch &scratch, ChunkPlace place) {
    return activation_row(scratch, place.token) + place.channel;
}

}  // namespace innerq
