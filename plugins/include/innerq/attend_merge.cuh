// Putting partial results together: warps of a CTA through shared memory, CTAs of a launch through the workspace.
//
// A partial is (out, maximum, sum) of a segment's 8 query rows over part of its tokens. A warp leaves at most two: `head`,
// of a segment that began before the warp's share and ends in it, and `tail`, of one that goes on behind it. A CTA again
// has at most two that are not whole. The CTA that arrives last at a segment's counter adds up and writes the output.
#pragma once

#include "innerq/attend_softmax.cuh"
#include "innerq/attend_walk.cuh"

namespace innerq::attend {

// Where results go.
struct Output {
    const Task &task;
    float unit;  // of Softmax::out

    // Where query row n of a segment goes, or nullptr if there is no such row; `seen`: its token is one of the new ones.
    __device__ __forceinline__ uint16_t *row(const Segment &s, int n, bool &seen) const {
        const int index = s.row_chunk * kRows + n, token = task.by_group.divide(index);
        seen = token < s.fresh;
        if (token >= task.params.tokens) return nullptr;
        return token_row(task.params.out, s.batch, s.head * task.group + index - token * task.group, token);
    }

    __device__ __forceinline__ void store4(uint16_t *row, int channel, float4 x, float sum, bool seen) const {
        const float scale = sum != 0.f ? __fdividef(unit, sum) : 0.f;
        const bool bf16 = task.params.cache.bf16;
        uint2 packed = {pack_activation2(x.x * scale, x.y * scale, bf16),
                        pack_activation2(x.z * scale, x.w * scale, bf16)};
        if (!seen) packed = {0u, 0u};
        *reinterpret_cast<uint2 *>(row + channel) = packed;
    }
};

template <int kTiles>
__device__ __forceinline__ float4 quad_of(const Softmax<kTiles> &state, int t, int e) {
    return {state.out[t][0][e], state.out[t][1][e], state.out[t][2][e], state.out[t][3][e]};
}

// A segment that one warp saw from end to end.
template <int kTiles>
__device__ __forceinline__ void write_output(const Output &output, const Segment &segment, const Softmax<kTiles> &state,
                                             int lane) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        bool seen;
        uint16_t *row = output.row(segment, 2 * (lane & 3) + e, seen);
        if (row == nullptr) continue;
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
            output.store4(row, 32 * t + 4 * (lane >> 2), quad_of(state, t, e), state.sum[e], seen);
    }
}

// A partial in shared memory: out [8][D + 4] (padded against bank conflicts), weights [8] of (maximum, sum).
template <int kTiles>
struct Slot8 {
    static constexpr int kStride = 32 * kTiles + 4;
    static constexpr int kBytes = kRows * kStride * 4;
};

template <int kTiles>
__device__ __forceinline__ void write_slot(float *out, float2 *weights, const Softmax<kTiles> &state, int lane) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int row = 2 * (lane & 3) + e;
#pragma unroll
        for (int t = 0; t < kTiles; ++t)
            *reinterpret_cast<float4 *>(out + row * Slot8<kTiles>::kStride + 32 * t + 4 * (lane >> 2)) =
                quad_of(state, t, e);
        if (lane < 4) weights[row] = {state.maximum[e], state.sum[e]};
    }
}

// Sum of partials; four channels of one row.
struct Sum4 {
    float4 out = {0.f, 0.f, 0.f, 0.f};
    float maximum = kNoMaximum, sum = 0.f;

    // Several at once, so that their loads are under way together.
    template <int kCount>
    __device__ __forceinline__ void add(const float4 (&x)[kCount], const float2 (&weight)[kCount]) {
        float now = maximum;
#pragma unroll
        for (int i = 0; i < kCount; ++i) now = fmaxf(now, weight[i].x);
        const float old = exp2_fast(maximum - now);
        maximum = now, sum *= old;
        out = {out.x * old, out.y * old, out.z * old, out.w * old};
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            const float factor = exp2_fast(weight[i].x - now);
            sum = fmaf(weight[i].y, factor, sum);
            out.x = fmaf(x[i].x, factor, out.x), out.y = fmaf(x[i].y, factor, out.y);
            out.z = fmaf(x[i].z, factor, out.z), out.w = fmaf(x[i].w, factor, out.w);
        }
    }

    // Items 0 .. count - 1, item(i, x, weight) loads one.
    template <int kCount, class Item>
    __device__ __forceinline__ void add_all(int count, const Item &item) {
#pragma unroll 1
        for (int base = 0; base < count; base += kCount) {
            float4 x[kCount];
            float2 weight[kCount];
#pragma unroll
            for (int i = 0; i < kCount; ++i) {
                x[i] = {0.f, 0.f, 0.f, 0.f}, weight[i] = {kNoMaximum, 0.f};
                if (base + i < count) item(base + i, x[i], weight[i]);
            }
            add(x, weight);
        }
    }
};

// Partials in the workspace: of part p, [p][0] of the segment that began before it, [p][1] of the one that goes on
// behind it; each out [8][D], then (maximum, sum) [8].
template <int kTiles>
struct Partials {
    static constexpr int kFloats = kRows * (32 * kTiles + 2);
    float *memory;
    __device__ __forceinline__ float *out(int part, int which) const {
        return memory + static_cast<int64_t>(2 * part + which) * kFloats;
    }
    __device__ __forceinline__ float2 *weights(int part, int which) const {
        return reinterpret_cast<float2 *>(out(part, which) + kRows * 32 * kTiles);
    }
};

// The last CTA of a segment: adds up the partials of parts first .. last and writes the output.
template <int kTiles>
__device__ __forceinline__ void merge_parts(const Output &output, const Segment &segment,
                                            const Partials<kTiles> &partials, int first, int last) {
    constexpr int kQuads = 8 * kTiles;
    for (int v = threadIdx.x; v < kRows * kQuads; v += blockDim.x) {
        const int n = v / kQuads, quad = v % kQuads;
        bool seen;
        uint16_t *row = output.row(segment, n, seen);
        if (row == nullptr) continue;
        Sum4 total;
        total.add_all<20>(last - first + 1, [&](int i, float4 &x, float2 &weight) {
            x = __ldcg(reinterpret_cast<const float4 *>(partials.out(first + i, i == 0)) + v);
            weight = __ldcg(partials.weights(first + i, i == 0) + n);
        });
        output.store4(row, 4 * quad, total.out, total.sum, seen);
    }
}

// Who shares a segment, as the last CTA to arrive learns it; in shared memory.
struct Arrival {
    int is_last, first, last;
};

// Counts this CTA in at a segment; its partial is written. True in the last one, where all partials are visible then.
__device__ __forceinline__ bool arrive(unsigned *counter, const Segment &segment, const Cuts &cuts, Arrival *shared) {
    __syncthreads();
    if (threadIdx.x == 0) {
        fence_gpu();
        const unsigned before = atomicAdd(counter, 1u);
        shared->first = cuts.part_of(segment.start);
        shared->last = cuts.part_of(segment.start + segment.units - 1);
        shared->is_last = before == static_cast<unsigned>(shared->last - shared->first);
        if (shared->is_last) {
            *counter = 0;  // clean for the next launch
            fence_gpu();
        }
    }
    __syncthreads();
    return shared->is_last;
}

// A run of warps' slots in shared memory that hold partials of the same segment: slots `members`, as a mask.
struct Run {
    unsigned members;
    Segment segment;
};

// The runs of a CTA, one after the other. Slots are in the order of the line of work, head before tail of each warp.
class Runs {
  public:
    __device__ __forceinline__ Runs(const Segment *segments, int slots, int lane) : segments_(segments) {
        const Segment own = lane < slots ? segments[lane] : Segment{};
        const unsigned valid = __ballot_sync(0xffffffffu, lane < slots && own.units > 0);
        const unsigned before = valid & ((1u << lane) - 1u);
        const int previous = before == 0 ? 0 : 31 - __clz(before);
        const int previous_start = __shfl_sync(0xffffffffu, own.start, previous);
        const bool leads = (valid >> lane & 1u) && (before == 0 || previous_start != own.start);
        valid_ = valid, leaders_ = __ballot_sync(0xffffffffu, leads);
    }

    __device__ __forceinline__ bool next(Run &run) {
        if (leaders_ == 0) return false;
        const int leader = __ffs(leaders_) - 1;
        leaders_ &= leaders_ - 1;
        run.members = valid_ >> leader << leader;
        if (leaders_ != 0) run.members &= (leaders_ & -leaders_) - 1u;
        run.segment = segments_[leader];
        return true;
    }

  private:
    const Segment *segments_;
    unsigned valid_, leaders_;
};

}  // namespace innerq::attend
