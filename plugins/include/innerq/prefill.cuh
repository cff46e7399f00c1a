// Attention of many new tokens: one CTA takes a tile of query rows of one head over the history (plain keys and values
// in token order), then over the new tokens up to the diagonal. Online softmax in fp32, tensor cores, two copies in
// flight: while scores are computed the values travel, while values are summed the next keys do.
// Method: Dao et al., FlashAttention-2, arXiv 2307.08691.
#pragma once

#include "innerq/attend_ptx.cuh"
#include "innerq/cache.cuh"

namespace innerq::prefill {

constexpr int kWarps = 4;

// What one architecture-independent instance works on: D channels, `kRowTiles` x 16 query rows a warp, kKeys a step.
template <int D_, bool Bf16_>
struct Shape {
    static constexpr int D = D_, kRowTiles = D_ == 256 ? 1 : 2, kKeys = D_ == 256 ? 32 : 64;
    static constexpr int kRows = 16 * kRowTiles * kWarps, kChunks = D / 8;
    static constexpr bool kBf16 = Bf16_;
    static constexpr int kSharedBytes = (kRows + 2 * kKeys) * D * 2;
};

// A run of tokens that query rows see: all of them (history) or those up to the row's own (new tokens).
struct Segment {
    const uint16_t *key, *value;  // of token 0 and this head
    int64_t key_stride, value_stride;
    int tokens;
    bool causal;
};

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// d += a b in the activation dtype. bf16 needs sm_80: the launcher refuses it on older cards.
template <bool Bf16>
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (!Bf16) {
        attend::mma(d, a[0], a[1], a[2], a[3], b0, b1, d);
    } else {
#if __CUDA_ARCH__ >= 800
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
    }
}

// Shared address of 16-byte chunk `chunk` of row `row`; chunks are swizzled so that eight rows hit all banks.
template <class Shape>
__device__ __forceinline__ uint32_t tile_address(uint32_t base, int row, int chunk) {
    return base + 2 * Shape::D * row + 16 * (chunk ^ (row & 7));
}

// Copies rows first .. first + kRows - 1 of a tensor; rows beyond `limit` repeat the last one (they are masked later).
template <class Shape, int kRows>
__device__ __forceinline__ void copy_rows(char *tile, const uint16_t *from, int64_t stride, int first, int limit) {
    for (int i = threadIdx.x; i < kRows * Shape::kChunks; i += 32 * kWarps) {
        const int row = i / Shape::kChunks, chunk = i % Shape::kChunks;
        const int token = min(first + row, limit - 1);
        attend::copy16(tile + 2 * Shape::D * row + 16 * (chunk ^ (row & 7)), from + token * stride + 8 * chunk);
    }
}

// Running softmax of the rows a warp owns; a lane holds two rows of each row tile.
template <class Shape>
struct State {
    float out[Shape::kRowTiles][Shape::D / 8][4];
    float largest[Shape::kRowTiles][2], sum[Shape::kRowTiles][2];
};

template <class Shape>
using Scores = float[Shape::kRowTiles][Shape::kKeys / 8][4];

// scores = Q Kᵀ for the warp's rows and the keys of one step.
template <class Shape>
__device__ __forceinline__ void compute_scores(Scores<Shape> &scores, uint32_t query, uint32_t key) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    memset(scores, 0, sizeof scores);
#pragma unroll
    for (int k = 0; k < Shape::D / 16; ++k) {
        uint32_t a[Shape::kRowTiles][4];
#pragma unroll
        for (int m = 0; m < Shape::kRowTiles; ++m)
            load_matrices(
                a[m], tile_address<Shape>(query, (warp * Shape::kRowTiles + m) * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < Shape::kKeys / 16; ++n) {
            uint32_t b[4];
            load_matrices(b, tile_address<Shape>(key, 16 * n + lane % 8 + 8 * (lane / 16), 2 * k + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < Shape::kRowTiles; ++m) {
                multiply<Shape::kBf16>(scores[m][2 * n], a[m], b[0], b[1]);
                multiply<Shape::kBf16>(scores[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// Hides keys at or beyond `limit`, and for new tokens those behind the row. `row` is the lane's first row, `key` the
// first key of the step.
template <class Shape>
__device__ __forceinline__ void hide(Scores<Shape> &scores, const Segment &segment, int row, int key) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < Shape::kRowTiles; ++m)
#pragma unroll
        for (int n = 0; n < Shape::kKeys / 8; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int token = key + 8 * n + 2 * (lane % 4) + i % 2;
                const int last = segment.causal ? row + 16 * m + 8 * (i / 2) : segment.tokens - 1;
                if (token > last) scores[m][n][i] = -INFINITY;
            }
}

// Turns scores into weights relative to the new row maximum and rescales what was summed before.
template <class Shape>
__device__ __forceinline__ void soften(State<Shape> &state, Scores<Shape> &scores, float scale_log2) {
#pragma unroll
    for (int m = 0; m < Shape::kRowTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float largest = state.largest[m][half];
#pragma unroll
            for (int n = 0; n < Shape::kKeys / 8; ++n)
                largest = fmaxf(largest, fmaxf(scores[m][n][2 * half], scores[m][n][2 * half + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
            const float shrink = attend::exp2_fast((state.largest[m][half] - largest) * scale_log2);
            state.largest[m][half] = largest;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < Shape::kKeys / 8; ++n)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) {
                    scores[m][n][i] = attend::exp2_fast((scores[m][n][i] - largest) * scale_log2);
                    sum += scores[m][n][i];
                }
            state.sum[m][half] = state.sum[m][half] * shrink + sum;
#pragma unroll
            for (int n = 0; n < Shape::D / 8; ++n)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; ++i) state.out[m][n][i] *= shrink;
        }
}

// out += P V.
template <class Shape>
__device__ __forceinline__ void add_values(State<Shape> &state, const Scores<Shape> &weights, uint32_t value) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < Shape::kKeys / 16; ++k) {
        uint32_t a[Shape::kRowTiles][4];
#pragma unroll
        for (int m = 0; m < Shape::kRowTiles; ++m)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float *pair = &weights[m][2 * k + i / 2][2 * (i % 2)];
                a[m][i] = attend::pack_activation2(pair[0], pair[1], Shape::kBf16);
            }
#pragma unroll
        for (int n = 0; n < Shape::D / 16; ++n) {
            uint32_t b[4];
            load_transposed(b, tile_address<Shape>(value, 16 * k + lane % 16, 2 * n + lane / 16));
#pragma unroll
            for (int m = 0; m < Shape::kRowTiles; ++m) {
                multiply<Shape::kBf16>(state.out[m][2 * n], a[m], b[0], b[1]);
                multiply<Shape::kBf16>(state.out[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// One segment: keys of its first step must be on their way before, those of `next` are when it returns.
template <class Shape>
__device__ __forceinline__ void attend_segment(State<Shape> &state, const Segment &segment, const Segment &next,
                                               int row, int end, float scale_log2, char *shared) {
    char *key_tile = shared + Shape::kRows * Shape::D * 2, *value_tile = key_tile + Shape::kKeys * Shape::D * 2;
    const int seen_by_all = segment.causal ? (row & ~(Shape::kRows - 1)) + 1 : segment.tokens;
#pragma unroll 1
    for (int first = 0; first < end; first += Shape::kKeys) {
        attend::copy_wait<0>();
        __syncthreads();
        copy_rows<Shape, Shape::kKeys>(value_tile, segment.value, segment.value_stride, first, segment.tokens);
        attend::copy_commit();
        Scores<Shape> scores;
        compute_scores<Shape>(scores, attend::shared_address(shared), attend::shared_address(key_tile));
        attend::copy_wait<0>();
        __syncthreads();
        const bool more = first + Shape::kKeys < end;
        if (more || !segment.causal)
            copy_rows<Shape, Shape::kKeys>(key_tile, more ? segment.key : next.key,
                                           more ? segment.key_stride : next.key_stride, more ? first + Shape::kKeys : 0,
                                           more ? segment.tokens : next.tokens);
        attend::copy_commit();
        if (first + Shape::kKeys > seen_by_all) hide<Shape>(scores, segment, row, first);
        soften<Shape>(state, scores, scale_log2);
        add_values<Shape>(state, scores, attend::shared_address(value_tile));
    }
}

// Writes the lane's rows below `rows`, zeros for rows of no token.
template <class Shape>
__device__ __forceinline__ void store_rows(const State<Shape> &state, uint16_t *out, int64_t stride, int row, int fresh,
                                           int rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < Shape::kRowTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = state.sum[m][half];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            const int at = row + 16 * m + 8 * half;
            if (at >= rows) continue;
            const float factor = at < fresh ? 1.0f / sum : 0.0f;
#pragma unroll
            for (int n = 0; n < Shape::D / 8; ++n) {
                const float *pair = &state.out[m][n][2 * half];
                const uint32_t packed = attend::pack_activation2(pair[0] * factor, pair[1] * factor, Shape::kBf16);
                *reinterpret_cast<uint32_t *>(out + at * stride + 8 * n + 2 * (lane % 4)) = at < fresh ? packed : 0u;
            }
        }
}

}  // namespace innerq::prefill
