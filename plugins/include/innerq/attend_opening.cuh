// How a warp finds its place in the line of work, from lengths that only the device knows: what comes before the first
// prefetch.
//
// Each lane works this out for a sequence of its own, in registers of its own. Left to itself the compiler puts numbers that
// all lanes share on the uniform data path, whose steps take twice as long, and reads parameters where they are needed, at
// 120 cycles for each 64 bytes that are touched first: hidden_zero() keeps it from both.
#pragma once

#include "innerq/attend_plan.cuh"
#include "innerq/cache.cuh"

namespace innerq::attend {

// What every kernel is told beside the codes.
struct Task {
    AttendParams params;
    int group;       // query heads per KV head
    int row_chunks;  // chunks of 8 query rows per KV head
    Divisor lines;   // kv_heads * row_chunks: segments of a sequence
    Divisor by_chunks, by_group, by_page, by_ring, by_warps, by_grid;
    unsigned *arrivals;  // [B, Hkv, row_chunks], zero before and after
    float *partials;     // [kMaxParts, 2] partials
};

// 0, which the compiler does not know.
__device__ __forceinline__ int hidden_zero(int lane) {
    int zero;
    asm("{ .reg .u32 t; mad.lo.u32 t, %1, %1, %1; and.b32 %0, t, 1; }" : "=r"(zero) : "r"(lane));
    return zero;
}

// A number that all lanes have alike; the compiler knows from here on.
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

__device__ __forceinline__ Cuts uniform(Cuts cuts) {
    cuts.total = uniform(cuts.total), cuts.each = uniform(cuts.each), cuts.longer = uniform(cuts.longer);
    return cuts;
}

// What stands between the lengths and the first prefetch, in registers before the lengths are there.
struct Opening {
    int part, tokens, batch, kv_heads, lines;
    CacheShape cache;
    Divisor by_grid, by_warps, by_chunks;
    unsigned record_bytes;
    const uint8_t *blocks;

    __device__ __forceinline__ Opening(const Task &task, int zero)
        : part(blockIdx.x + zero),
          tokens(task.params.tokens + zero),
          batch(task.params.cache.batch + zero),
          kv_heads(task.params.cache.kv_heads + zero),
          lines(task.lines.divisor + zero),
          cache{task.params.cache.sink + zero, task.params.cache.ring + zero, task.params.cache.capacity_blocks + zero},
          by_grid(task.by_grid),
          by_warps(task.by_warps),
          by_chunks(task.by_chunks),
          record_bytes(task.params.cache.record_bytes + zero),
          blocks(task.params.cache.blocks + zero) {
        Divisor *const divisors[] = {&by_grid, &by_warps, &by_chunks};
#pragma unroll
        for (Divisor *d : divisors) d->divisor += zero, d->multiplier += zero, d->shift += zero;
    }
};

// Like __ldg (a plain load is 0.1 us slower), and behind wait_for_previous_grid() where nothing stands between: the compiler
// moves __ldg freely, this one past other work only (test_machine_order.py looks).
__device__ __forceinline__ int load_behind(const int32_t *from) {
    int x;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(x) : "l"(from));
    return x;
}

// Held and new tokens of a sequence, as they stand in memory.
struct Lengths {
    int past, fresh;

    __device__ __forceinline__ Lengths(const AttendParams &p, int batch)
        : past(load_behind(p.past_length_B + batch)),
          fresh(p.new_length_B == nullptr ? p.tokens : load_behind(p.new_length_B + batch)) {}

    __device__ __forceinline__ Sequence sequence(int tokens, const CacheShape &cache) const {
        return Sequence(past, fresh, tokens, cache);
    }
    __device__ __forceinline__ Sequence sequence(const AttendParams &p) const {
        return sequence(p.tokens, CacheShape{p.cache.sink, p.cache.ring, p.cache.capacity_blocks});
    }
};

__device__ __forceinline__ int warp_sum(int x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_add_sync(0xffffffffu, x);
#else
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
#endif
}

// A sequence of a lane's own: of 32 neighbouring ones, that of its number.
struct OwnSequence {
    Sequence sequence;  // units == 0 if there is none
    float inverse;      // of units

    __device__ __forceinline__ OwnSequence(const Sequence &read, bool exists) : sequence(read) {
        if (!exists) sequence.units = 0;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(static_cast<float>(sequence.units)));
    }
    __device__ __forceinline__ OwnSequence(const AttendParams &p, int batch)
        : OwnSequence(lengths(p, batch).sequence(p), batch < p.cache.batch) {}

    static __device__ __forceinline__ Lengths lengths(const AttendParams &p, int batch) {
        return Lengths(p, min(batch, p.cache.batch - 1));
    }
};

// Units of one line (KV head and row chunk) of all sequences. first: those of the first 32.
__device__ __forceinline__ int count_units(const AttendParams &p, const OwnSequence &first, int lane) {
    int units = warp_sum(first.sequence.units);
#pragma unroll 1
    for (int base = 32; base < p.cache.batch; base += 32) units += warp_sum(OwnSequence(p, base + lane).sequence.units);
    return units;
}

// A CTA's units, begin .. end, shared out to its warps.
struct Shares {
    int begin, end, warps, each, longer;

    __device__ __forceinline__ Shares(const Divisor &by_warps, int begin, int end)
        : begin(begin),
          end(end),
          warps(by_warps.divisor),
          each(by_warps.divide(end - begin)),
          longer(end - begin - warps * each) {}

    __device__ __forceinline__ int cut(int warp) const { return begin + each * warp + min(warp, longer); }
    // Warps, as a mask, that have a share and have it in units from .. to.
    __device__ __forceinline__ unsigned within(int from, int to, int lane) const {
        const bool has_share = lane < warps && cut(lane) < cut(lane + 1);
        return __ballot_sync(0xffffffffu, has_share && cut(lane) >= from && cut(lane + 1) <= to);
    }
};

__device__ __forceinline__ Shares uniform(Shares shares) {
    shares.begin = uniform(shares.begin), shares.end = uniform(shares.end), shares.warps = uniform(shares.warps);
    shares.each = uniform(shares.each), shares.longer = uniform(shares.longer);
    return shares;
}

// Where a unit lies, as each lane sees it for a sequence of its own; `inside` in the one lane that has the right one, if
// there is one.
struct Sighting {
    OwnSequence own;
    int batch, start, index;  // of own: its first unit; its segment that the unit is in
    bool inside;

    __device__ __forceinline__ Sighting(const AttendParams &p, const OwnSequence &first, int lines, int unit, int lane)
        : own(first), batch(lane) {
        int before = 0;  // units of a line of the sequences before these 32
#pragma unroll 1
        for (int base = 32;; base += 32) {
            const Sequence &sequence = own.sequence;
            int upto = sequence.units;
            if (p.cache.batch > 1) {
#pragma unroll
                for (int step = 1; step < 32; step *= 2) {
                    const int other = __shfl_up_sync(0xffffffffu, upto, step);
                    if (lane >= step) upto += other;
                }
            }
            start = (before + upto - sequence.units) * lines;
            inside = unsigned(unit - start) < unsigned(sequence.units * lines);
            index = small_quotient(unit - start, sequence.units, own.inverse);
            if (base >= p.cache.batch || __ballot_sync(0xffffffffu, inside) != 0) return;
            before += __shfl_sync(0xffffffffu, upto, 31);
            batch = base + lane;
            own = OwnSequence(p, batch);
        }
    }

    // -1: none.
    __device__ __forceinline__ int lane_inside() const { return __ffs(__ballot_sync(0xffffffffu, inside)) - 1; }
};

}  // namespace innerq::attend
