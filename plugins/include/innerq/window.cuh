// Rows of the window: what the host works out once, and places in the ring without a division for each.
#pragma once

#include "innerq/attend_plan.cuh"  // Divisor
#include "innerq/tile.cuh"

namespace innerq {

// What an append needs before its first loads, in the order in which it needs it: every line of 64 bytes of parameters
// costs a trip of its own.
struct WindowPlan {
    const int32_t *past_length_B, *new_length_B;  // new_length_B may be NULL
    uint8_t *first_place;                         // row of place 0 of the ring, of the first sequence's first key head
    uint32_t head_bytes;
    int kv_heads, kept;      // kept = sink + recent
    attend::Divisor places;  // of the ring
    uint32_t row_bytes;
    int tokens;
    const uint16_t *key_norm;  // NULL: lambda is 1
    TokenParams key, value;

    explicit WindowPlan(const AppendParams &params)
        : past_length_B(params.past_length_B),
          new_length_B(params.new_length_B),
          first_place(static_cast<uint8_t *>(params.cache.window) +
                      size_t{2} * params.cache.sink * params.cache.head_dim),
          head_bytes(2u * params.cache.window_slots * params.cache.head_dim),
          kv_heads(params.cache.kv_heads),
          kept(params.cache.sink + params.cache.ring - kGroup),
          places(params.cache.ring),
          row_bytes(2u * params.cache.head_dim),
          tokens(params.tokens),
          key_norm(params.cache.learns_lambda ? params.cache.key_norm : nullptr),
          key(params.key),
          value(params.value) {}

    INNERQ_HD int ring() const { return static_cast<int>(places.divisor); }

    // Place in the ring of a token that is `beyond` the sink; below 0 for a sink token.
    INNERQ_HD int place_of(int beyond) const { return beyond < 0 ? beyond : beyond - places.divide(beyond) * ring(); }

    // New tokens of a sequence, as they stand in memory.
    INNERQ_HD int fresh_of(int batch) const { return new_length_B != nullptr ? new_length_B[batch] : tokens; }

    // q(n) of SPEC section 2, for any n without overflow.
    INNERQ_HD int blocks_of(int tokens) const {
        return tokens < kept ? 0 : static_cast<int>(static_cast<uint32_t>(tokens - kept) / kGroup);
    }
};

// Rows of the window of one tile place, from one channel of it, by place in the ring; sink tokens have places below 0.
struct WindowRows {
    uint8_t *first;  // of place 0
    int row_bytes, ring;

    WindowRows() = default;
    INNERQ_HD WindowRows(const WindowPlan &plan, TilePlace at, int channel)
        : row_bytes(static_cast<int>(plan.row_bytes)), ring(plan.ring()) {
        const uint32_t head = (at.batch * 2 + at.part) * plan.kv_heads + at.head;
        first = plan.first_place + static_cast<uint64_t>(head) * plan.head_bytes + 2 * (kGroup * at.tile + channel);
#ifdef __CUDA_ARCH__
        asm volatile("" : "+l"(first));  // worked out now, while lengths are on their way
        __builtin_assume(__isGlobal(first));
#endif
    }
    INNERQ_HD uint16_t *row(int place) const {
        return reinterpret_cast<uint16_t *>(first + static_cast<int64_t>(place) * row_bytes);
    }
    // Row of the place `count` <= ring behind a place of the ring.
    INNERQ_HD uint16_t *row_behind(int place, int count) const {
        const unsigned next = place + count, wrapped = next - ring;  // huge where `next` < ring
        return row(static_cast<int>(wrapped < next ? wrapped : next));
    }
    // The same from any place, a sink token's too.
    INNERQ_HD uint16_t *row_after(int place, int count) const {
        return row(place + count < ring ? place + count : place + count - ring);
    }
};

}  // namespace innerq
