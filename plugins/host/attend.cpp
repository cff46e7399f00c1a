// Attention of the host build: scalar, one query row at a time, sums in double. For tests and machines without a GPU.
#include "launch/attend.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "innerq/record.cuh"
#include "launch/launch.h"
#include "launch/status.h"

namespace innerq {
namespace {

// Keys and values of one sequence and KV head, history (tokens < past) then new tokens, as floats [T, D].
struct History {
    int64_t past, fresh;
    std::vector<float> key_TD, value_TD;
};

// Stores one tile of a record as floats, code by code; tokens >= past belong to the call and are taken in full precision.
void read_record(const CacheParams &cache, uint8_t *record, TilePlace at, int64_t first_token, History &history) {
    const TileParts parts = parts_of(cache, record, at.part);
    const uint16_t *lambda = at.part == kKeys && cache.learns_lambda ? lambda_place(cache, at) : nullptr;
    std::vector<float> &out = at.part == kKeys ? history.key_TD : history.value_TD;
    for (int i = 0; i < kGroup * kGroup; ++i) {
        const int row = i / kGroup, column = i % kGroup, channel = kGroup * at.tile + column;
        if (first_token + row >= history.past) continue;
        const Slot slot = at.part == kKeys ? key_slot(row, column) : value_slot(column, row);
        const int code = static_cast<int>(get_code(parts.codes, parts.tiles, parts.bits, at.tile, slot));
        const GroupScale scale = load_scale(parts, at.part, at.tile, at.part == kKeys ? row : column);
        const float x = dequantise(code, scale, parts.bits, parts.mode);
        out[(first_token + row) * cache.head_dim + channel] = lambda != nullptr ? x * from_half(lambda[column]) : x;
    }
}

void read_blocks(const AttendParams &params, int batch, int head, History &history) {
    const CacheParams &cache = params.cache;
    const int64_t blocks = blocks_with_room(cache, history.past + history.fresh);
    for (int64_t block = 0; block < blocks; ++block)
        if (uint8_t *record = record_of(cache, batch, head, block))
            for (int part = 0; part < 2; ++part)
                for (int tile = 0; tile < cache.head_dim / kGroup; ++tile)
                    read_record(cache, record, {batch, head, part, tile}, cache.sink + kGroup * block, history);
}

void read_row(const uint16_t *row, const CacheParams &cache, float *out) {
    for (int c = 0; c < cache.head_dim; ++c) out[c] = from_activation(row[c], cache.bf16);
}

void read_plain(const AttendParams &params, int batch, int head, History &history) {
    const CacheParams &cache = params.cache;
    const int64_t end = cache.sink + kGroup * blocks_of(cache, history.past + history.fresh);
    for (int64_t t = 0; t < history.past + history.fresh; ++t) {
        if (t >= cache.sink && t < end && t < history.past) continue;
        const bool is_new = t >= history.past;
        for (int part = 0; part < 2; ++part) {
            const TokenParams &fresh = part == kKeys ? params.key : params.value;
            std::vector<float> &out = part == kKeys ? history.key_TD : history.value_TD;
            const uint16_t *row = is_new ? token_row(fresh, batch, head, t - history.past)
                                         : window_row(cache, batch, part, head, slot_of(cache, t));
            read_row(row, cache, &out[t * cache.head_dim]);
        }
    }
}

History read_history(const AttendParams &params, int batch, int head) {
    const int64_t room = params.cache.window_slots + int64_t{kGroup} * params.cache.capacity_blocks;
    const int64_t past = std::clamp<int64_t>(params.past_length_B[batch], 0, room);
    const int fresh = params.new_length_B != nullptr ? params.new_length_B[batch] : params.tokens;
    History history{past, std::clamp(fresh, 0, params.tokens), {}, {}};
    history.key_TD.assign((past + history.fresh) * params.cache.head_dim, 0.0f);
    history.value_TD = history.key_TD;
    read_blocks(params, batch, head, history);
    read_plain(params, batch, head, history);
    return history;
}

// Softmax weights of one query row over tokens 0 .. visible - 1, not yet divided by their sum.
std::vector<double> weigh(const History &history, const float *query_D, int head_dim, float scale, int64_t visible) {
    std::vector<double> weight(visible);
    double largest = -INFINITY;
    for (int64_t t = 0; t < visible; ++t) {
        double score = 0;
        for (int c = 0; c < head_dim; ++c) score += double(query_D[c]) * history.key_TD[t * head_dim + c];
        weight[t] = score * scale;
        largest = std::max(largest, weight[t]);
    }
    for (double &w : weight) w = std::exp(w - largest);
    return weight;
}

void attend_row(const AttendParams &params, const History &history, int batch, int query_head, int row) {
    const CacheParams &cache = params.cache;
    std::vector<float> query(cache.head_dim);
    read_row(token_row(params.query, batch, query_head, row), cache, query.data());
    const std::vector<double> weight =
        weigh(history, query.data(), cache.head_dim, params.scale, history.past + row + 1);
    double sum = 0;
    for (const double w : weight) sum += w;
    uint16_t *out = token_row(params.out, batch, query_head, row);
    for (int c = 0; c < cache.head_dim; ++c) {
        double value = 0;
        for (size_t t = 0; t < weight.size(); ++t) value += weight[t] * history.value_TD[t * cache.head_dim + c];
        out[c] = to_activation(static_cast<float>(value / sum), cache.bf16);
    }
}

innerq_status attend(const AttendParams &params) {
    const CacheParams &cache = params.cache;
    const int group = params.query_heads / cache.kv_heads;
    for (int batch = 0; batch < cache.batch; ++batch)
        for (int head = 0; head < cache.kv_heads; ++head) {
            const History history = read_history(params, batch, head);
            for (int query_head = head * group; query_head < (head + 1) * group; ++query_head)
                for (int row = 0; row < params.tokens; ++row)
                    if (row < history.fresh)
                        attend_row(params, history, batch, query_head, row);
                    else
                        std::fill_n(token_row(params.out, batch, query_head, row), cache.head_dim, uint16_t{0});
        }
    return INNERQ_OK;
}

}  // namespace

size_t attend_workspace_bytes(const CacheParams &, int, int) { return 0; }
innerq_status launch_attend(const AttendParams &params, void *) { return attend(params); }

size_t prefill_workspace_bytes(const CacheParams &, int64_t) { return 0; }
innerq_status launch_prefill(const AttendParams &params, void *) { return attend(params); }

}  // namespace innerq
