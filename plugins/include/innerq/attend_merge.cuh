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

    // Channels channel .. + 3 of query row n of a segment, if there is such a row.
    __device__ __forceinline__ void store4(const Segment &segment, int n, int channel, float4 x, float sum) const {
        bool seen;
        uint16_t *row = this->row(segment, n, seen);
        if (row != nullptr) store4(row, channel, x, sum, seen);
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

// A partial in shared memory: out [8][D + 4] (padded against bank conflicts), weights [8] of (maximum, sum). Where kShare
// records share the columns of a product, the first 8 / kShare rows are there.
template <int kTiles>
struct Slot8 {
    static constexpr int kStride = 32 * kTiles + 4;
    static constexpr int kBytes = kRows * kStride * 4;
};

template <int kShare, int kTiles>
__device__ __forceinline__ void write_slot(float *out, float2 *weights, const Softmax<kTiles> &state, int lane) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int row = 2 * (lane & 3) + e;
        if (record_of_column<kShare>(row) != 0) continue;
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

    // kCount items at once: item(i, x, weight) loads one, if there is one.
    template <int kCount, class Item>
    __device__ __forceinline__ void add_all(const Item &item) {
        float4 x[kCount];
        float2 weight[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            x[i] = {0.f, 0.f, 0.f, 0.f}, weight[i] = {kNoMaximum, 0.f};
            item(i, x[i], weight[i]);
        }
        add(x, weight);
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

// A segment whose partials a CTA left in the workspace, as it learns there; in shared memory.
struct Arrival {
    Segment segment;
    int is_last;      // of the CTAs that share it, this one came last
    int first, last;  // the parts that share it
};

// The last CTA of a segment: adds up quad `quad` of row n of its partials and writes the output.
template <int kTiles>
__device__ __forceinline__ void merge_parts(const Output &output, const Arrival &arrival,
                                            const Partials<kTiles> &partials, int n, int quad) {
    Sum4 total;
    const int count = arrival.last - arrival.first + 1;
    constexpr int kFew = 4, kMany = 20;
    const auto add = [&](auto most, int base) {
        const float *partial = partials.out(arrival.first + base, 0);
        total.add_all<decltype(most)::value>([&](int i, float4 &x, float2 &weight) {
            if (base + i >= count) return;
            const float *from = partial + (2 * i + (i == 0 && base == 0)) * Partials<kTiles>::kFloats;
            x = __ldcg(reinterpret_cast<const float4 *>(from) + n * (8 * kTiles) + quad);
            weight = __ldcg(reinterpret_cast<const float2 *>(from + kRows * 32 * kTiles) + n);
        });
    };
    if (count <= kFew)
        add(Bits<kFew>{}, 0);
    else
#pragma unroll 1
        for (int base = 0; base < count; base += kMany) add(Bits<kMany>{}, base);
    output.store4(arrival.segment, n, 4 * quad, total.out, total.sum);
}

// Counts this CTA in at a segment; its partial is written. Partials of all are visible in the last one.
__device__ __forceinline__ void arrive(const Task &task, Arrival &arrival) {
    const Segment &segment = arrival.segment;
    const int64_t line = static_cast<int64_t>(segment.batch) * task.lines.divisor + segment.head * task.row_chunks;
    unsigned *counter = task.arrivals + line + segment.row_chunk;
    arrival.is_last = count_in(counter) == static_cast<unsigned>(arrival.last - arrival.first);
    if (arrival.is_last) *counter = 0;  // clean for the next launch
}

// The runs of a CTA: warps' slots in shared memory that hold partials of the same segment, in the order of the line of
// work, head before tail of each warp.
class Runs {
  public:
    __device__ __forceinline__ Runs(const Segment *segments, int slots, int lane) : segments_(segments) {
        const Segment own = lane < slots ? segments[lane] : Segment{};
        valid_ = __ballot_sync(0xffffffffu, lane < slots && own.units > 0);
        const unsigned before = valid_ & ((1u << lane) - 1u);
        const int previous = before == 0 ? 0 : 31 - __clz(before);
        const int previous_start = __shfl_sync(0xffffffffu, own.start, previous);
        leaders_ = __ballot_sync(0xffffffffu, (valid_ >> lane & 1u) && (before == 0 || previous_start != own.start));
    }

    __device__ __forceinline__ int count() const { return __popc(leaders_); }
    // Slots of run i, as a mask; its segment is that of any of them.
    __device__ __forceinline__ unsigned members(int i) const {
        unsigned leaders = leaders_;
#pragma unroll 1
        for (; i > 0; --i) leaders &= leaders - 1u;
        const unsigned from = valid_ & ~((leaders & -leaders) - 1u), behind = leaders & (leaders - 1u);
        return behind == 0 ? from : from & ((behind & -behind) - 1u);
    }
    __device__ __forceinline__ const Segment &segment(unsigned members) const { return segments_[__ffs(members) - 1]; }

  private:
    const Segment *segments_;
    unsigned valid_, leaders_;
};

}  // namespace innerq::attend
