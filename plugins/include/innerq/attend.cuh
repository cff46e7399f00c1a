// Decode attention over the packed cache, one launch: records, window and new tokens, split over warps and merged.
//
// One CTA per multiprocessor; every warp works alone on its share of the flat split (attend_plan.cuh) with its own ring
// (attend_ring.cuh), then partials are merged (attend_merge.cuh). No CTA barrier before that. Lengths are read on the
// device. Softmax in fp32, weights and queries as fp16 operands.
#pragma once

#include "innerq/attend_merge.cuh"
#include "innerq/attend_record.cuh"
#include "innerq/attend_ring.cuh"
#include "innerq/attend_window.cuh"
#include "innerq/grid_order.cuh"

namespace innerq::attend {

inline constexpr int kMaxWarps = 8;

// Records that a warp works on at once: two where the registers hold them.
template <int kTiles, class KeyCodes, class ValueCodes>
inline constexpr int kStepRecords = kTiles <= 4 && KeyCodes::fixed && ValueCodes::fixed ? 2 : 1;

// A stage holds the records of a step, or the keys or values of a window chunk.
template <int kTiles, class KeyCodes, class ValueCodes>
INNERQ_HD constexpr int stage_bytes(int record_bytes) {
    const int records = kStepRecords<kTiles, KeyCodes, ValueCodes> * record_bytes, rows = kWindowTokens * 64 * kTiles;
    return records > rows ? records : rows;
}

// Launch parameters, by value. KeyCodes and ValueCodes: FixedCodes or AnyCodes.
template <class KeyCodes, class ValueCodes>
struct Launch {
    Task task;
    KeyCodes keys;
    ValueCodes values;
};

// Shared memory, in bytes, of a CTA of `warps` warps.
struct SharedPlan {
    int head_bytes, stage_bytes;
    INNERQ_HD constexpr int barriers() const { return 0; }
    INNERQ_HD constexpr int arrivals() const { return kMaxWarps * kStages * 8; }
    INNERQ_HD constexpr int segments() const { return arrivals() + 2 * static_cast<int>(sizeof(Arrival)); }
    INNERQ_HD constexpr int weights() const { return segments() + 2 * kMaxWarps * static_cast<int>(sizeof(Segment)); }
    // At a whole line of 128 bytes, and with it the rings: bulk copies to elsewhere take a sixth longer.
    INNERQ_HD constexpr int heads() const { return (weights() + 2 * kMaxWarps * kRows * 8 + 127) / 128 * 128; }
    // Slot 2w: warp w's head partial. Slot 2w + 1: its ring, and its tail partial once the ring is done with.
    INNERQ_HD constexpr int slot(int warps, int slot) const {
        const int warp = slot / 2;
        return heads() + (slot % 2 ? warps * head_bytes + warp * kStages * stage_bytes : warp * head_bytes);
    }
    INNERQ_HD constexpr int bytes(int warps) const { return slot(warps, 2 * warps + 1); }
};

// Loads this lane's query row (column g of a product) of a segment. Rows that do not exist repeat the last one, or the first
// where there are no new tokens; their results go nowhere.
template <int kShare, int kTiles>
__device__ __forceinline__ void load_query(const Task &task, const Segment &segment, int lane, RawQuery<kTiles> &raw) {
    const AttendParams &p = task.params;
    const int column = (lane >> 2) % (kRows / kShare);
    const int index = at_least(min(segment.row_chunk * kRows + column, task.group * segment.fresh - 1), 0);
    const int token = task.by_group.divide(index), head = segment.head * task.group + index - token * task.group;
    const uint16_t *lambda = p.cache.learns_lambda ? lambda_row(p.cache, segment.batch, segment.head) : nullptr;
    raw.load(token_row(p.query, segment.batch, head, token), lambda, lane & 3);
}

// Wakes the memory while this warp still works out its share: the step that will most likely be its first and, of pages, the
// block table where the first 32 steps will look. sighting: of the warp's first unit. begin: the CTA's first unit.
template <int kCount>
__device__ __forceinline__ void prefetch_first_step(const Task &task, const Opening &opening, const Sighting &sighting,
                                                    int begin, int warp, int lane) {
#if INNERQ_BULK_COPY
    const Sequence &sequence = sighting.own.sequence;
    const CacheParams &cache = task.params.cache;
    const int start = sighting.start + sighting.index * sequence.units;
    Segment segment = {};
    segment.batch = sighting.batch, segment.head = opening.by_chunks.divide(sighting.index);
    int block = sequence.steps_before<kCount>(at_least(begin - start, 0)) + kCount * warp;
    int count = min(kCount, sequence.blocks - block);
    unsigned row = (segment.batch * opening.kv_heads + segment.head) * opening.cache.capacity_blocks + block;
    bool elected = sighting.inside;
    if (cache.block_table != nullptr) {
        const int from = sighting.lane_inside();
        const int blocks = __shfl_sync(0xffffffffu, sequence.blocks, from);
        segment.batch = __shfl_sync(0xffffffffu, segment.batch, from);
        segment.head = __shfl_sync(0xffffffffu, segment.head, from);
        block = __shfl_sync(0xffffffffu, block, from) + kCount * static_cast<int>(task.by_warps.divisor) * lane;
        row = from >= 0 && block < blocks ? paged_row(task, segment, block) : kNoPage;
        count = min(cache.page_blocks % kCount != 0 ? 1 : kCount, blocks - block);
        elected = lane == 0;
    }
    if (elected && count > 0 && row != kNoPage)
        bulk_prefetch(opening.blocks + uint64_t{row} * opening.record_bytes, count * opening.record_bytes);
#endif
}

// This warp's part of units [from, to) of a segment, which a team shares: window chunks first, then records. raw: the
// segment's query, on its way; converted here. meanwhile: is called once, when the first copies are under way.
template <int kShare, int kTiles, class KeyCodes, class ValueCodes, class Meanwhile>
__device__ __forceinline__ void attend_piece(const Launch<KeyCodes, ValueCodes> &launch, const RecordLayout &layout,
                                             const SegmentWalk &walk, int from, int to, const Team &team, Ring &ring,
                                             int lane, RawQuery<kTiles> &raw, Softmax<kTiles> &state,
                                             const Meanwhile &meanwhile) {
    const Task &task = launch.task;
    const Sequence &sequence = walk.sequence;
    const Segment &segment = walk.segment;
    if (segment.fresh == 0) {
        meanwhile();
        return state.clear();
    }
    constexpr int per_step = kStepRecords<kTiles, KeyCodes, ValueCodes>;
    const int begin = sequence.steps_before<per_step>(from), end = sequence.steps_before<per_step>(to);
    const int first_chunk = sequence.chunks_before(from), last_chunk = sequence.chunks_before(to);

    const Team::Steps steps = team.steps<per_step>(last_chunk - first_chunk);
    RecordSource<per_step> source(task, segment, steps, begin, end, lane);
    int asked_steps = 0, ahead[kStages];    // first blocks of the steps asked for
    const auto ask_step = [&](int block) {  // of the next step to ask for
        const int step = asked_steps++;
#pragma unroll
        for (int s = 1; s < kStages; ++s) ahead[s - 1] = ahead[s];
        ahead[kStages - 1] = block;
        if (__builtin_expect(source.has_array(block), 1))
            return ring.fill<per_step>(source.in_array(block, layout.bytes));
        if (block >= end) return ring.skip();
        const unsigned first = source.paged_rows(step);
        if (first < kApart) return ring.fill<per_step>(record_at(task.params.cache, first));
        unsigned rows[per_step];
        source.find(step, block, first, rows);
        ring.fill(task.params.cache, rows);
    };
    const auto ask_records = [&] { ask_step(source.block(asked_steps)); };
    const Window window(task, sequence, segment);
    int asked_chunk = first_chunk + team.member;
    Part asked_part = kKeys;
    const auto ask = [&] {
        if (asked_chunk >= last_chunk) return ask_records();
        const int first = asked_chunk * kWindowTokens;
        ring.fill_rows(min(kWindowTokens, window.last + 1 - first), 64 * kTiles,
                       [&](int i) { return window.rows(asked_part, first + i); });
        if (asked_part == kValues) asked_chunk += team.size;
        asked_part = asked_part == kKeys ? kValues : kKeys;
    };
#pragma unroll 1
    for (int s = 0; s < kStages; ++s) ask();
    meanwhile();

    const int zero = hidden_zero(lane);
    const float log2_scale = task.params.scale * 1.4426950408889634f;
    Query<kTiles, KeyCodes, kShare> query;
    if (task.params.cache.bf16) raw.convert();
    if (begin < end) query.make(launch.keys, raw, log2_scale, lane, zero);
    state.clear();
    int first = (first_chunk + team.member) * kWindowTokens;
    Part part = kKeys;
    uint32_t weights[2];
#pragma unroll 1
    while (first < last_chunk * kWindowTokens) {
        const char *stage = ring.wait();
        if (part == kKeys) {
            window_weights<kShare>(window, stage, raw, first, log2_scale, lane, state, weights);
            part = kValues;
        } else {
            add_window(launch.values, window, stage, first, weights, lane, state);
            part = kKeys;
            first += team.size * kWindowTokens;
        }
        __syncwarp();
        ask();
    }

    const ValueConstants<kTiles, ValueCodes> constants(launch.values, layout, lane, zero);
    const int last_tokens = sequence.last_tokens();
    const int whole_end = uniform(  // once, not in every step
        min(end, sequence.blocks - (last_tokens < kGroup)));
#pragma unroll 1
    while (ahead[0] < end) {
        const int block = ahead[0], next = source.block(asked_steps);  // now, or the copy would wait for it
        const char *stage = ring.wait();
        if (per_step == 2 && block + 2 <= whole_end && ring.complete()) {
            attend_records<per_step, kShare>(launch.keys, launch.values, constants, query, stage, layout, kGroup, lane,
                                             state);
        } else {
            const int missing = ring.missing();
#pragma unroll 1
            for (int r = 0; r < min(per_step, end - block); ++r)
                if (!((missing >> r) & 1))
                    attend_records<1, kShare>(launch.keys, launch.values, constants, query, stage + r * layout.bytes,
                                              layout, block + r < whole_end ? kGroup : last_tokens, lane, state);
        }
        __syncwarp();
        ask_step(next);
    }
    if (kShare == 2) state.fold();
}

// Whether a CTA with units [begin, end) sees but part of a segment: `which` of its two partials, or -1.
__device__ __forceinline__ int partial_of(const Segment &segment, int begin, int end) {
    if (segment.start < begin) return 0;
    return segment.start + segment.units > end ? 1 : -1;
}

// A CTA shares at most two segments with its neighbours: of arrivals[0] it does not hold the beginning, of arrivals[1] only
// the beginning. Who else has part of them (last < 0: nobody) is noted while memory is waited for, by the warp that has the
// CTA's first unit and the one that has its last. Lanes 0 and 1 work out a part each.
__device__ __forceinline__ void note_sharers(const Cuts &cuts, const Segment &segment, int which, int lane,
                                             Arrival *arrivals) {
    const int part = blockIdx.x;
    const bool shared = partial_of(segment, cuts.cut(part), cuts.cut(part + 1)) == which;
    const int own = shared ? cuts.part_of(segment.start + (lane & 1) * (segment.units - 1)) : 0;
    const int last = __shfl_down_sync(0xffffffffu, own, 1);
    if (lane == 0) arrivals[which] = {segment, false, own, shared ? last : -1};
}

// Adds up what the warps of this CTA left in shared memory, run by run of the same segment, and hands on.
template <int kShare, int kTiles>
__device__ __forceinline__ void merge_warps(const Output &output, const Cuts &cuts, char *shared,
                                            const SharedPlan &plan, int warps) {
    constexpr unsigned kQuads = 8 * kTiles, kItems = kRows / kShare * kQuads;
    const Partials<kTiles> partials{output.task.partials};
    const float2 *weights = reinterpret_cast<const float2 *>(shared + plan.weights());
    Arrival *arrivals = reinterpret_cast<Arrival *>(shared + plan.arrivals());
    const int part = blockIdx.x, begin = cuts.cut(part), end = cuts.cut(part + 1);
    const Runs runs(reinterpret_cast<const Segment *>(shared + plan.segments()), 2 * warps, threadIdx.x % 32);
#pragma unroll 1
    for (unsigned v = threadIdx.x; v < runs.count() * kItems; v += blockDim.x) {
        const unsigned members = runs.members(v / kItems);
        const int n = v % kItems / kQuads, quad = v % kQuads, some = __ffs(members) - 1;
        Sum4 total;
        total.add_all<kMaxWarps>([&](int warp, float4 &x, float2 &weight) {
            const int either = members >> (2 * warp) & 3;  // a warp's head and tail are of different segments
            const int slot = either == 0 ? some : 2 * warp + (either >> 1);
            x = *reinterpret_cast<const float4 *>(shared + plan.slot(warps, slot) +
                                                  4 * (n * Slot8<kTiles>::kStride + 4 * quad));
            weight = either == 0 ? float2{kNoMaximum, 0.f} : weights[slot * kRows + n];
        });
        const Segment &segment = runs.segment(members);
        const int which = partial_of(segment, begin, end);
        if (which < 0) {
            output.store4(segment, n, 4 * quad, total.out, total.sum);
        } else {
            reinterpret_cast<float4 *>(partials.out(part, which))[n * kQuads + quad] = total.out;
            if (quad == 0) partials.weights(part, which)[n] = {total.maximum, total.sum};
        }
    }
    __syncthreads();
    if (threadIdx.x < 2 && arrivals[threadIdx.x].last >= 0) arrive(output.task, arrivals[threadIdx.x]);
    __syncthreads();
#pragma unroll 1
    for (unsigned v = threadIdx.x; v < 2 * kItems; v += blockDim.x)
        if (arrivals[v / kItems].is_last)
            merge_parts<kTiles>(output, arrivals[v / kItems], partials, v % kItems / kQuads, v % kQuads);
}

// kShare: records that share the columns of a product, which then have room for 8 / kShare query rows.
template <int kHeadDim, int kShare, class KeyCodes, class ValueCodes>
__global__ void __launch_bounds__(32 * kMaxWarps, 1)
    attend_kernel(const __grid_constant__ Launch<KeyCodes, ValueCodes> launch) {
    constexpr int kTiles = kHeadDim / 32;
    static_assert(Slot8<kTiles>::kBytes % 128 == 0, "a ring would not begin at a line");
    extern __shared__ __align__(128) char shared[];
    const Task &task = launch.task;
    const int warps = blockDim.x / 32, lane = threadIdx.x % 32;
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0);  // in a uniform register
    release_next_grid();
    wait_for_previous_grid();
    Lengths lengths = OwnSequence::lengths(task.params, lane);
    const int zero = hidden_zero(lane);
    const Opening opening(task, zero);

    const RecordLayout layout = record_layout(kHeadDim, launch.keys.bits(), launch.keys.zero() != kNoZero,
                                              launch.values.bits(), launch.values.zero() != kNoZero);
    const SharedPlan plan{Slot8<kTiles>::kBytes, stage_bytes<kTiles, KeyCodes, ValueCodes>(layout.bytes)};
    Ring ring(shared + plan.slot(warps, 2 * warp + 1),
              reinterpret_cast<uint64_t *>(shared + plan.barriers()) + kStages * warp, plan.stage_bytes, layout.bytes,
              task.row_chunks == 1, lane);
    Segment *segments = reinterpret_cast<Segment *>(shared + plan.segments()) + 2 * warp;
    if (lane < 2) segments[lane].units = 0;
    Arrival *arrivals = reinterpret_cast<Arrival *>(shared + plan.arrivals());
    __syncwarp();
    // Always 0; the compiler, which cannot know, does not wait for the lengths before it is here.
    const int gate = *const_cast<volatile const int *>(&segments->units);
    __syncwarp();
    lengths.past += gate, lengths.fresh += gate;
    const OwnSequence first(lengths.sequence(opening.tokens, opening.cache), lane < opening.batch);
    const int units = count_units(task.params, first, lane);
    const Cuts early_cuts((units + zero) * opening.lines, opening.by_grid);
    const Shares early(opening.by_warps, early_cuts.cut(opening.part), early_cuts.cut(opening.part + 1));
    const Sighting sighting(task.params, first, opening.lines, early.cut(warp), lane);
    prefetch_first_step<kStepRecords<kTiles, KeyCodes, ValueCodes>>(task, opening, sighting, early.begin, warp, lane);

    const Cuts cuts = uniform(early_cuts);
    const Shares shares = uniform(early);
    if (shares.begin == shares.end) return;
    const Output output{task, power_of_two(unit_exponent(launch.values.bits()))};
    int unit = shares.cut(warp);
    const int end = shares.cut(warp + 1);
    if (unit < end) {
        SegmentWalk walk(task, sighting);
#pragma unroll 1
        while (true) {
            const Segment &segment = walk.segment;
            const int from = unit - segment.start, to = min(segment.units, end - segment.start);
            RawQuery<kTiles> raw;
            load_query<kShare>(task, segment, lane, raw);
            Team team;
            int team_from = from, team_to = to;
            if (unit == shares.cut(warp) && segment.start + to == end) {
                const unsigned members = shares.within(segment.start, segment.start + segment.units, lane);
                team = {__popc(members), __popc(members & ((1u << warp) - 1u))};
                team_from = shares.cut(__ffs(members) - 1) - segment.start;
                team_to = shares.cut(32 - __clz(members)) - segment.start;
            }
            Softmax<kTiles> state;
            const auto meanwhile = [&] {
                if (unit == shares.begin) note_sharers(cuts, segment, 0, lane, arrivals);
                if (segment.start + to == shares.end) note_sharers(cuts, segment, 1, lane, arrivals);
            };
            attend_piece<kShare>(launch, layout, walk, team_from, team_to, team, ring, lane, raw, state, meanwhile);
            const bool ends = to == segment.units;
            if (ends && from == 0) {
                write_output(output, segment, state, lane);
            } else {
                const int slot = 2 * warp + !ends;
                write_slot<kShare>(reinterpret_cast<float *>(shared + plan.slot(warps, slot)),
                                   reinterpret_cast<float2 *>(shared + plan.weights()) + slot * kRows, state, lane);
                if (lane == 0) segments[!ends] = segment;
            }
            unit = segment.start + to;
            if (unit >= end) break;
            walk.next();
        }
    }
    __syncthreads();
    merge_warps<kShare, kTiles>(output, cuts, shared, plan, warps);
}

}  // namespace innerq::attend
